import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { startWrite, write } from '../support/lab/guest-writes.js';
import { type HangingTarget, mountHanging } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { ourJobs, type RunningBackup, startBackup, untilCopying } from '../support/running-backup.js';
import { scenario, type Scenario } from '../support/scenario.js';

// A target whose server stops answering, as an NFS server that went away: every call on it hangs until it is back.
// The run ends all the same and says so, the VM can still be managed, and the next run goes on incrementally.

const STALL = ['--stall-timeout', '2'] as const;

describe('a target that hangs in the middle of a run', () => {
  it('the run ends and leaves its job and journal; so do the next ones until it answers; then all is repaired', async () => {
    const { lab, target } = await withFull();
    const run = await slowInc(lab);
    target.hang();
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 1 });
    expect(ending.stderr).toMatch(
      /the target \S+ hangs: its file system has not answered for 2 s; the run was given up/,
    );
    expect(ending.stderr).toContain('No change is lost');
    expect(await ourJobs(lab.vm)).toHaveLength(1);
    expect(await lab.vm.control.execute('query-status')).toMatchObject({ running: false });

    const { stderr } = await expectCli(1, args(lab, 'inc', '--target', lab.target, ...STALL));
    expect(stderr).toMatch(/does not answer: its file system said nothing for 2 s/);
    // QEMU would hang with its guest if it were asked for its nodes now: nothing asks, whatever it is for.
    const other = ['--target', join(lab.dir, 'other')];
    for (const each of [args(lab, 'full', ...other, '--dry-run'), ['--socket', lab.vm.socket, 'info']]) {
      expect((await expectCli(1, each)).stderr).toMatch(/this job of a run that died does not get on/);
    }
    const second = await expectCli(1, args(lab, 'full', ...other, ...STALL));
    expect(second.stderr).toMatch(/this job of an earlier run was cancelled and does not end/);
    expect(await lab.vm.control.execute('query-status')).toMatchObject({ running: false });
    expect(await readdir(lab.dir)).not.toContain('other');

    target.answer();
    await expectNextInc(lab);
  });

  it('a write of the guest waits for it, and goes through when the target answers again', async () => {
    const { lab, target } = await withFull();
    const run = await slowInc(lab);
    target.hang();
    const { finished } = await startWrite(lab.vm, 'd1', { offset: 20 * MiB, length: 65536, pattern: 0x13 });
    expect(await run.ended).toMatchObject({ exitCode: 1 });
    target.answer();
    await finished;
    await expectNextInc(lab);
  });

  it('that answers again while the run still waits: the run goes on as if nothing had been', async () => {
    const { lab, target } = await withFull();
    const run = startBackup(lab, 'inc', '--speed-limit', '4M', '--stall-timeout', '60', '--fleece', 'never');
    await untilCopying(lab, run, 1);
    target.hang();
    await sleep(2_000);
    target.answer();
    expect(await run.ended).toMatchObject({ exitCode: 0 });
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('SIGTERM ends the run also while it hangs', async () => {
    const { lab, target } = await withFull();
    const run = await slowInc(lab);
    target.hang();
    // Not by the test's own library, which sends SIGKILL after it.
    process.kill(run.pid, 'SIGTERM');
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 143 });
    target.answer();
    await expectNextInc(lab);
  });

  it('SIGKILL while it hangs: nothing of the run stays alive', async () => {
    const { lab, target } = await withFull();
    const run = await slowInc(lab);
    target.hang();
    run.kill('SIGKILL');
    // Both processes hold its output open: this waits for both.
    await run.ended;
    target.answer();
    await expectNextInc(lab);
  });

  it('SIGKILL of the process that was started ends the one that works for it too', async () => {
    const { lab } = await withFull();
    const run = await slowInc(lab);
    run.kill('SIGKILL');
    await run.ended;
    await expectNextInc(lab);
  });
});

describe('with fleecing', () => {
  it('the guest goes on while the target hangs and after the run has ended; the next run is incremental', async () => {
    const { lab, target } = await withFull();
    const run = await slowInc(lab, ...STALL, '--fleece', 'always');
    target.hang();
    const writes = async (pattern: number): Promise<void> => {
      for (let offset = 16 * MiB; offset < 18 * MiB; offset += 65536) {
        const begun = performance.now();
        const { finished } = await startWrite(lab.vm, 'd1', { offset, length: 65536, pattern });
        await finished;
        expect(performance.now() - begun).toBeLessThan(patient(10_000));
      }
    };
    await writes(0x21);
    expect(await run.ended).toMatchObject({ exitCode: 1 });
    await writes(0x22);
    target.answer();
    await expectNextInc(lab);
  });

  it('the guest goes on also where the job has as much under way as it can', async () => {
    const lab = await scenario([{ id: 'd1', size: 1024 * MiB }]);
    const target = await mountHanging(lab.target);
    for (let at = 0; at < 768; at += 64) {
      await write(lab.vm, 'd1', { offset: at * MiB, length: 64 * MiB, pattern: 0x11 });
    }
    const run = startBackup(lab, 'full', ...STALL);
    await untilCopying(lab, run, 1);
    target.hang();
    await sleep(1_000);
    for (let at = 700; at < 710; at += 1) {
      const { finished } = await startWrite(lab.vm, 'd1', { offset: at * MiB, length: 65536, pattern: 0x21 });
      await finished;
    }
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 1 });
    target.answer();
    expect((await lab.backup('auto')).point).toMatchObject({ number: 0, level: 'full' });
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(1);
  });
});

it('a target that hangs from the beginning ends the run before anything is changed', async () => {
  const { lab, target } = await withFull();
  target.hang();
  const begun = performance.now();
  const { stderr } = await expectCli(1, args(lab, 'inc', '--target', lab.target, ...STALL));
  expect(stderr).toMatch(/does not answer/);
  expect(stderr).toMatch(/Nothing was changed/);
  // Two seconds, and what a busy machine adds: not the two minutes of the default.
  expect(performance.now() - begun).toBeLessThan(patient(15_000));
  target.answer();
  await expectNextInc(lab);
});

it('a job that somebody paused is no reason to wait for ever', async () => {
  const { lab } = await withFull();
  const run = await slowInc(lab, '--stall-timeout', '1');
  const [job] = await ourJobs(lab.vm);
  await lab.vm.control.execute('job-pause', { id: job!.id });
  const ending = await run.ended;
  expect(ending).toMatchObject({ exitCode: 1 });
  expect(ending.stderr).toMatch(/no job got on for 1 s/);
});

describe('the lock of the target', () => {
  it('taken by somebody else in the middle: the run ends with 11, keeps nothing and leaves that lock alone', async () => {
    const { lab } = await withFull();
    const run = await slowInc(lab);
    const lock = join(lab.target, '.lock');
    await rm(lock, { recursive: true });
    await mkdir(lock);
    const record = join(lock, 'owner-0123456789abcdef.json');
    await writeFile(record, 'the lock of somebody else');
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 11 });
    expect(ending.stderr).toContain(`the lock of the target ${lab.target} was lost`);
    expect(await readFile(record, 'utf8')).toBe('the lock of somebody else');
    await rm(lock, { recursive: true });
    await lab.expectNothingLeft(1);
    await expectNextInc(lab);
  });
});

// --- set-up ------------------------------------------------------------------------------------------------------------

function args(lab: Scenario, level: string, ...more: readonly string[]): readonly string[] {
  return ['--socket', lab.vm.socket, 'backup', '--level', level, ...more];
}

async function withFull(): Promise<{ readonly lab: Scenario; readonly target: HangingTarget }> {
  const lab = await scenario([{ id: 'd1' }]);
  const target = await mountHanging(lab.target);
  await write(lab.vm, 'd1', { offset: 0, length: 4 * MiB, pattern: 0x11 });
  await lab.backup('full');
  await write(lab.vm, 'd1', { offset: 2 * MiB, length: 20 * MiB, pattern: 0x12 });
  return { lab, target };
}

/** An INC that would take 20 s, seen copying. */
async function slowInc(lab: Scenario, ...more: readonly string[]): Promise<RunningBackup> {
  const options = more.length > 0 ? more : STALL;
  const direct = options.includes('--fleece') ? [] : ['--fleece', 'never'];
  const run = startBackup(lab, 'inc', '--speed-limit', '1M', ...options, ...direct);
  await untilCopying(lab, run, 1);
  return run;
}

async function expectNextInc(lab: Scenario): Promise<void> {
  expect((await lab.backup('inc')).point).toMatchObject({ number: 1, level: 'inc' });
  await lab.expectChainEqualsDisks();
  await lab.expectNothingLeft(2);
}
