import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { built } from '../support/built.js';
import { patient } from '../support/patience.js';
import { type PretendVirsh, pretendVirsh } from '../support/pretend-virsh.js';
import { afterTest } from '../support/scenario.js';

// The guard's own process, with a virsh that answers on demand. That it ends a real job is shown in e2e/domain-faults.

const UUID = '11111111-2222-4333-8444-555555555555';
const SOCKET = '/var/tmp/qmpbackup-0123456789ab.scratch/nbd.sock';
const NO_JOB = `echo 'error: Domain backup job id not found: no domain backup job present' >&2; exit 1`;
const pullAt = (socket: string): string =>
  `echo "<domainbackup mode='pull'><server transport='unix' socket='${socket}'/><disks/></domainbackup>"`;

let library: string;
beforeAll(async () => {
  library = pathToFileURL(await built('guards/pull-guard.js')).href;
});

let virsh: PretendVirsh;
beforeEach(async () => {
  virsh = await pretendVirsh();
  await virsh.answer('backup-dumpxml', `if [ -e ${virsh.dir}/ended ]; then ${NO_JOB}; fi; ${pullAt(SOCKET)}`);
  await virsh.answer('domjobabort', `touch ${virsh.dir}/ended`);
  await virsh.answer('domstats', 'echo "  state.state=1"; echo "  state.reason=1"');
  await virsh.answer('resume', 'echo resumed');
});

/** A process that has a guard and then does `steps`. */
async function startParent(steps: string): Promise<ChildProcess> {
  const script = `
    import { startPullGuard } from ${JSON.stringify(library)};
    const task = { connect: null, uuid: '${UUID}', socket: '${SOCKET}', resumes: true };
    const guard = startPullGuard(task, { warn: (words) => console.log(words) });
    const on = setInterval(() => undefined, 1000);
    console.log('guarded');
    ${steps}`;
  const parent = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  afterTest(() => Promise.resolve(parent.kill('SIGKILL')));
  await once(parent.stdout, 'data');
  return parent;
}

interface Running {
  readonly words: string;
  readonly group: string;
}

async function running(): Promise<readonly Running[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  // It may end between the two.
  const read = (pid: string, file: string) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '');
  return Promise.all(
    pids.map(async (pid) => {
      const [stat, words] = [await read(pid, 'stat'), await read(pid, 'cmdline')];
      return { words, group: stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2] ?? '' };
    }),
  );
}

/** Process groups of guards of the domain. */
async function guards(): Promise<readonly string[]> {
  const found = (await running()).filter(({ words }) => words.includes('pull-guard-main') && words.includes(UUID));
  return found.map(({ group }) => group);
}

const ended = () => expect.poll(guards, { timeout: patient(15_000), interval: 100 }).toEqual([]);

describe('the guard of a pull', () => {
  it('ends the job of a parent that was killed, also where libvirtd is away at first, and the guest goes on', async () => {
    await virsh.answer('backup-dumpxml', `echo 'error: failed to connect to the hypervisor' >&2; exit 1`);
    await virsh.answer('domstats', 'echo "  state.state=3"; echo "  state.reason=5"');
    (await startParent('')).kill('SIGKILL');
    await expect.poll(() => virsh.calls(), { timeout: patient(10_000) }).toContain('backup-dumpxml');
    expect(await virsh.calls()).not.toContain('domjobabort');
    await virsh.answer('backup-dumpxml', `if [ -e ${virsh.dir}/ended ]; then ${NO_JOB}; fi; ${pullAt(SOCKET)}`);
    await ended();
    const calls = await virsh.calls();
    expect(calls.slice(calls.indexOf('domjobabort'))).toEqual(['domjobabort', 'backup-dumpxml', 'domstats', 'resume']);
  });

  it('ends one that libvirt begins later, after the end of who had asked for it', async () => {
    await virsh.answer('backup-dumpxml', NO_JOB);
    (await startParent('')).kill('SIGKILL');
    await expect
      .poll(async () => (await virsh.calls()).filter((call) => call === 'backup-dumpxml').length, {
        timeout: patient(40_000),
      })
      .toBeGreaterThan(7);
    await virsh.answer('backup-dumpxml', `if [ -e ${virsh.dir}/ended ]; then ${NO_JOB}; fi; ${pullAt(SOCKET)}`);
    await ended();
    expect(await virsh.calls()).toContain('domjobabort');
  });

  it('leaves the job of another run alone', async () => {
    await virsh.answer('backup-dumpxml', pullAt(SOCKET.replace('0123', '4567')));
    (await startParent('')).kill('SIGKILL');
    await ended();
    expect(await virsh.calls()).toEqual(['backup-dumpxml']);
  });

  it('acts at once where it is handed over, while the parent lives on', async () => {
    const parent = await startParent('guard.handOver();');
    await ended();
    expect(await virsh.calls()).toContain('domjobabort');
    expect(parent.exitCode).toBe(null);
  });

  it('that is released has gone with all its processes, soon after its start and later, and keeps nobody waiting', async () => {
    for (const ms of [1_000, 3_500]) {
      const steps = `await new Promise((resolve) => setTimeout(resolve, ${ms})); guard.release(); clearInterval(on);`;
      const parent = await startParent(steps);
      await sleep(ms - 500);
      const groups = await guards();
      expect(groups).toHaveLength(1);
      if (parent.exitCode === null) await once(parent, 'exit');
      const left = async () => (await running()).filter(({ words, group }) => words !== '' && groups.includes(group));
      await expect.poll(left, { timeout: patient(500), interval: 20 }).toEqual([]);
    }
    expect(await virsh.calls()).toEqual([]);
  });
});
