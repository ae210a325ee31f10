import { describe, expect, it } from 'vitest';
import { inspectDomain, jobOf } from '../../../src/libvirt/domain.js';
import { VirshError } from '../../../src/libvirt/errors.js';
import { resumeStalled } from '../../../src/libvirt/lifecycle.js';
import type { Virsh } from '../../../src/libvirt/virsh.js';

describe('jobOf', () => {
  const changing = new VirshError('domjobinfo', 'internal error: backup job data missing');
  const answering = (answers: (string | Error)[]): Virsh => {
    return () => {
      const answer = answers.shift() ?? changing;
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
    };
  };

  it('asks again while a job is just beginning or ending', async () => {
    expect(await jobOf(answering([changing, changing, 'Job type: 0\n']), 'uuid')).toBeNull();
    expect(await jobOf(answering([changing, 'Job type: 2\noperation: 9\n']), 'uuid')).toMatchObject({
      state: 'running',
      operation: 'backup',
    });
  });

  it('not for ever, and not after another error', async () => {
    await expect(jobOf(answering([]), 'uuid')).rejects.toBe(changing);
    const other = new VirshError('domjobinfo', 'internal error: something else');
    await expect(jobOf(answering([other, 'Job type: 0\n']), 'uuid')).rejects.toBe(other);
  });
});

/** Each answer of a command is given once, and the last one for ever. */
function virshWith(answers: Readonly<Record<string, readonly (string | Error)[]>>): Virsh {
  const given = new Map<string, number>();
  return (command) => {
    const all = answers[command] ?? [''];
    const count = given.get(command) ?? 0;
    given.set(command, count + 1);
    const answer = all[Math.min(count, all.length - 1)]!;
    return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
  };
}

describe('inspectDomain', () => {
  const RUNNING = 'Job type: 2\noperation: 9\n';
  const noJob = new VirshError('backup-dumpxml', 'Domain backup job id not found: no domain backup job present');
  const domain = {
    dumpxml: ["<domain type='qemu' id='1'><name>web</name><uuid>uuid</uuid><devices/></domain>"],
    domstate: ['running (booted)'],
  };

  it('takes a backup that ends between two looks for no job, and one that goes on without a description for one', async () => {
    const ends = virshWith({ ...domain, domjobinfo: [RUNNING, 'Job type: 0\n'], 'backup-dumpxml': [noJob] });
    expect(await inspectDomain(ends, 'uuid')).toMatchObject({ job: null, backup: null });
    const goesOn = virshWith({ ...domain, domjobinfo: [RUNNING], 'backup-dumpxml': [noJob] });
    expect(await inspectDomain(goesOn, 'uuid')).toMatchObject({ job: { state: 'running' }, backup: null });
  });
});

describe('resumeStalled', () => {
  const stalled = '  state.state=3\n  state.reason=5\n';
  const runs = '  state.state=1\n  state.reason=5\n';
  const refused = new VirshError('resume', 'internal error: domain is already running');

  it('does not mind that somebody else was faster, and tells of any other refusal', async () => {
    expect(await resumeStalled(virshWith({ domstats: [runs] }), 'uuid')).toBe(false);
    expect(await resumeStalled(virshWith({ domstats: [stalled] }), 'uuid')).toBe(true);
    expect(await resumeStalled(virshWith({ domstats: [stalled, runs], resume: [refused] }), 'uuid')).toBe(true);
    await expect(resumeStalled(virshWith({ domstats: [stalled], resume: [refused] }), 'uuid')).rejects.toBe(refused);
  });
});
