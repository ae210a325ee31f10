import { readdir, readFile, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { messageOf } from '../../src/errors.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { FakeAgent } from '../support/fake-agent.js';
import { createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import { run as runProgram } from '../support/lab/programs.js';
import { openRelay } from '../support/qmp-relay.js';
import {
  type Job,
  ourJobs,
  type RunningBackup,
  startBackup,
  startRun,
  untilConcluded,
  untilCopying,
  untilJobs,
} from '../support/running-backup.js';
import {
  afterTest,
  type BackupAnswer,
  labDir,
  scenario,
  type Scenario,
  withFull,
  writeBoth,
} from '../support/scenario.js';

// A run that dies, at whatever moment and of whatever cause: no point counts, nothing of ours stays, and the next INC
// holds every change, whether it was written before, during or after that run.

describe('a signal in the middle of an INC', () => {
  it.each([
    { signal: 'SIGTERM', exitCode: 143 },
    { signal: 'SIGINT', exitCode: 130 },
  ] as const)('$signal: the jobs are cancelled, all is cleaned up, exit code $exitCode', async (each) => {
    const lab = await withFull();
    const { run, bitmaps, catalog } = await slowInc(lab);
    run.kill(each.signal);
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: each.exitCode });
    expect(errorOf(ending.stdout)).toMatchObject({ code: 'interrupted', exitCode: each.exitCode });

    await lab.expectNothingLeft(1);
    expect(await lab.bitmaps()).toEqual(bitmaps);
    expect(await catalogOf(lab)).toBe(catalog);
    expect(await filesOf(lab)).toHaveLength(2);
    await expectNextInc(lab);
  });

  it('SIGKILL: the next run ends the jobs that go on', async () => {
    const lab = await withFull();
    await killSlowInc(lab);
    expect(await ourJobs(lab.vm)).toHaveLength(2);
    await expectNextInc(lab);
  });

  it('SIGKILL, and the jobs end well before the next run: they count for nothing', async () => {
    const lab = await withFull();
    await killSlowInc(lab);
    await untilConcluded(lab.vm);
    await expectNextInc(lab);
  });

  it('SIGKILL, then a backup into another target, which ends the jobs of the dead run', async () => {
    const lab = await withFull();
    await killSlowInc(lab);
    const other = join(lab.dir, 'other');
    await lab.backup('full', '--target', other);
    expect(await ourJobs(lab.vm)).toEqual([]);
    await lab.expectChainEqualsDisks(other);
    // The other chain's bitmap stays beside ours.
    await expectNextInc(lab, { bitmaps: 3 });
  });

  it('SIGKILL, then a dry run and list: they change nothing, and the dry run says what would be repaired', async () => {
    const lab = await withFull();
    await killSlowInc(lab);
    const files = await filesOf(lab);
    const dry = await expectCli(0, [
      ...['--json', '--socket', lab.vm.socket],
      ...['backup', '--level', 'inc', '--dry-run', '--target', lab.target],
    ]);
    const repairs = dry.json<{ repairs: { kind: string }[] }>().repairs.map(({ kind }) => kind);
    expect(new Set(repairs)).toEqual(
      new Set(['end-job', 'remove-bitmap', 'delete-file', 'delete-folder', 'remove-node', 'remove-journal']),
    );
    await expectCli(0, ['list', '--target', lab.target]);
    expect(await filesOf(lab)).toEqual(files);
    expect(await ourJobs(lab.vm)).toHaveLength(2);
    await expectNextInc(lab);
  });
});

describe('SIGKILL at a step', () => {
  const steps: readonly (CrashPoint & { readonly name: string; readonly sealed?: boolean })[] = [
    { name: 'before the journal', when: 'before', call: 'rename', matches: /run\.json$/ },
    { name: 'after the journal', when: 'after', call: 'rename', matches: /run\.json$/ },
    { name: 'while staging', when: 'after', call: 'open', matches: /\.partial/ },
    { name: 'while QEMU tries the target', when: 'after', call: 'send', matches: /"blockdev-add"/ },
    { name: 'before the transaction', when: 'before', call: 'send', matches: /"transaction"/ },
    { name: 'after the transaction', when: 'after', call: 'send', matches: /"transaction"/ },
    { name: 'before an image has its name', when: 'before', call: 'rename', matches: /INC-\d+\.qcow2$/ },
    { name: 'after an image has its name', when: 'after', call: 'rename', matches: /INC-\d+\.qcow2$/ },
    { name: 'before the catalog', when: 'before', call: 'rename', matches: /catalog\.json$/ },
    { name: 'after the catalog', when: 'after', call: 'rename', matches: /catalog\.json$/, sealed: true },
    { name: 'before a job is dismissed', when: 'before', call: 'send', matches: /"job-dismiss"/, sealed: true },
    { name: 'after a bitmap went', when: 'after', call: 'send', matches: /"block-dirty-bitmap-remove"/, sealed: true },
    { name: 'before the journal goes', when: 'before', call: 'rm', matches: /run\.json$/, sealed: true },
    { name: 'after the journal went', when: 'after', call: 'rm', matches: /run\.json$/, sealed: true },
  ];

  it('of an INC, each one in turn on one chain', async () => {
    const lab = await withFull();
    let number = 1;
    for (const [index, { name, sealed = false, ...step }] of steps.entries()) {
      try {
        // No step writes where another has: what one of them lost would be missing at the end.
        await writeBoth(lab, 2 * index, 0x40 + index);
        const catalog = await catalogOf(lab);
        await crashCli(step, ['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target]);
        expect((await catalogOf(lab)) === catalog).toBe(!sealed);
        await writeBoth(lab, 2 * index + 1, 0x80 + index);
        if (sealed) number += 1;
        const { point } = await lab.backup('inc');
        const changed = (sealed ? 1 : 2) * MiB;
        expect(point).toMatchObject({
          number,
          level: 'inc',
          disks: [{ level: 'inc', changed }, { changed }],
        });
        await lab.expectNothingLeft(2);
        number += 1;
      } catch (error) {
        throw new Error(`killed ${name}: ${messageOf(error)}`, { cause: error });
      }
    }
    await lab.expectChainEqualsDisks();
  });

  it('of the first FULL: the next run starts the chain', async () => {
    const lab = await scenario();
    await writeBoth(lab, 0, 0x31);
    for (const step of steps.filter(({ sealed, name }) => !sealed && name !== 'while staging')) {
      const full = { ...step, matches: new RegExp(step.matches.source.replace('INC', 'FULL')) };
      await crashCli(full, ['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--target', lab.target]);
      await writeBoth(lab, 12, 0x32);
    }
    expect((await lab.backup('auto')).point).toMatchObject({ number: 0, level: 'full' });
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(1);
  });

  it('at any moment, again and again on one chain', async () => {
    const seed = Number(process.env.QMPBACKUP_TEST_SEED ?? Math.floor(Math.random() * 2 ** 31));
    const random = pseudoRandom(seed);
    const lab = await withFull();
    const begun = performance.now();
    await lab.backup('inc');
    const usualMs = performance.now() - begun;
    const delays: number[] = [];
    try {
      for (let round = 0; round < 12; round += 1) {
        await write(lab.vm, 'd1', { offset: 4 * round * MiB, length: MiB, pattern: 0x60 + round });
        const delay = random() * usualMs;
        delays.push(Math.round(delay));
        const run = startBackup(lab, 'inc');
        await sleep(delay);
        run.kill('SIGKILL');
        await run.ended;
        await write(lab.vm, 'd2', { offset: 4 * round * MiB, length: MiB, pattern: 0x60 + round });
        await lab.backup('inc');
        await lab.expectNothingLeft(2);
      }
      await lab.expectChainEqualsDisks();
    } catch (error) {
      const kills = `${delays.join(', ')} of ${Math.round(usualMs)} ms`;
      throw new Error(`QMPBACKUP_TEST_SEED=${seed}, killed after ${kills}: ${messageOf(error)}`, { cause: error });
    }
  });
});

describe('somebody else at the monitor', () => {
  it('cancels a job: the run fails and takes the other job back', async () => {
    const lab = await withFull();
    const { run, catalog, jobs } = await slowInc(lab);
    await lab.vm.control.execute('job-cancel', { id: jobOf(jobs, 'd1') });
    const ending = await run.ended;
    expect(ending.exitCode).toBe(1);
    expect(errorOf(ending.stdout).message).toMatch(/the backup of d1 failed: .*cancel/i);
    await lab.expectNothingLeft(1);
    expect(await catalogOf(lab)).toBe(catalog);
    await expectNextInc(lab);
  });

  it.each(['cancels and dismisses', 'dismisses, after it has ended well,'])('%s a job', async (what) => {
    const lab = await withFull();
    const { run, catalog, jobs } = await slowInc(lab);
    const id = jobOf(jobs, 'd2');
    run.kill('SIGSTOP');
    if (what === 'cancels and dismisses') {
      await lab.vm.control.execute('job-cancel', { id });
      await untilJobs(lab.vm, run, (now) => now.some((job) => job.id === id && job.status === 'concluded'));
    } else {
      await untilConcluded(lab.vm);
    }
    await lab.vm.control.execute('job-dismiss', { id });
    run.kill('SIGCONT');
    const ending = await run.ended;
    expect(ending.exitCode).toBe(1);
    expect(errorOf(ending.stdout).message).toContain('the backup of d2 failed: it is gone from QEMU');
    await lab.expectNothingLeft(1);
    expect(await catalogOf(lab)).toBe(catalog);
    await expectNextInc(lab);
  });

  it('has a job of their own on another disk, which ends first', async () => {
    const lab = await withFull();
    const { run } = await slowInc(lab, '--include', 'd1');
    await foreignBackup(lab, 'd2');
    await foreignConcluded(lab);
    await sleep(500);
    // Its events were no end of ours.
    expect(run.running()).toBe(true);
    await untilConcluded(lab.vm);
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 0 });
    expect((JSON.parse(ending.stdout) as BackupAnswer).point).toMatchObject({ number: 1, level: 'inc' });
    await lab.vm.control.execute('job-dismiss', { id: 'foreign' });
    await expectNextInc(lab, { number: 2, bitmaps: 2 });
  });

  it('has a job of their own on the same disk, which ends first', async () => {
    const lab = await withFull();
    await foreignBackup(lab, 'd1', MiB);
    const { run } = await slowInc(lab);
    await lab.vm.control.execute('block-job-set-speed', { device: 'foreign', speed: 0 });
    await foreignConcluded(lab);
    expect(run.running()).toBe(true);
    await untilConcluded(lab.vm);
    expect(await run.ended).toMatchObject({ exitCode: 0 });
    await lab.vm.control.execute('job-dismiss', { id: 'foreign' });
    await expectNextInc(lab, { number: 2, bitmaps: 2 });
  });

  it('has a job of their own, which neither an interrupted run nor the repair of a dead one touches', async () => {
    const lab = await withFull();
    await foreignBackup(lab, 'd2', 64 * 1024);
    const { run } = await slowInc(lab);
    run.kill('SIGTERM');
    expect(await run.ended).toMatchObject({ exitCode: 143 });
    await killSlowInc(lab);
    await lab.backup('inc');
    expect(await lab.vm.control.execute('query-jobs')).toMatchObject([{ id: 'foreign', status: 'running' }]);
    await lab.vm.control.execute('block-job-cancel', { device: 'foreign', force: true });
    await foreignConcluded(lab);
    await lab.vm.control.execute('job-dismiss', { id: 'foreign' });
    await lab.expectChainEqualsDisks();
  });
});

describe('QEMU', () => {
  it('cannot write the target of one of two disks: no point counts, although the other ended well', async () => {
    const program = await qemuThatHearsOfLimits();
    const lab = await withFull({ program });
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 0x41 });
    await write(lab.vm, 'd2', { offset: 0, length: 6 * MiB, pattern: 0x42 });
    const catalog = await catalogOf(lab);
    const bitmaps = await lab.bitmaps();
    // No file may grow beyond this: d1's increment fits and d2's does not. QEMU hears EFBIG, as ENOSPC of a full disk.
    await runProgram('prlimit', ['--pid', String(lab.vm.pid), `--fsize=${4 * MiB}:`]);
    const failed = await expectCli(1, [
      ...['--json', '--socket', lab.vm.socket],
      ...['backup', '--level', 'inc', '--target', lab.target],
    ]);
    expect(errorOf(failed.stdout).message).toContain('the backup of d2 failed: File too large');
    await lab.expectNothingLeft(1);
    expect(await catalogOf(lab)).toBe(catalog);
    expect(await lab.bitmaps()).toEqual(bitmaps);
    await runProgram('prlimit', ['--pid', String(lab.vm.pid), '--fsize=unlimited:']);
    await writeBoth(lab, 24, 0x43);
    expect((await lab.backup('inc')).point.disks.map(({ changed }) => changed)).toEqual([2 * MiB, 7 * MiB]);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('ends gracefully in the middle of an INC: the next one, after a restart, is incremental', async () => {
    const lab = await withFull();
    const { run, catalog } = await slowInc(lab);
    await lab.vm.stop();
    const ending = await run.ended;
    expect(ending.exitCode).toBe(1);
    expect(errorOf(ending.stdout).message).toContain('monitor was lost');
    expect(await catalogOf(lab)).toBe(catalog);
    await lab.restart();
    await expectNextInc(lab);
  });

  it('ends gracefully after the tool was killed in the middle of an INC', async () => {
    const lab = await withFull();
    await killSlowInc(lab);
    await lab.vm.stop();
    await lab.restart();
    await expectNextInc(lab);
  });

  it('is killed in the middle of an INC: the next point is whole again', async () => {
    const lab = await withFull();
    const { run, catalog } = await slowInc(lab);
    await lab.vm.kill();
    expect(await run.ended).toMatchObject({ exitCode: 1 });
    expect(await catalogOf(lab)).toBe(catalog);
    await lab.restart();
    expect(levelsOf(await lab.backup('auto'))).toEqual(['d1 inc by comparison', 'd2 inc by comparison']);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(1);
  });

  it('lives, but the connection to it breaks in the middle of an INC', async () => {
    const lab = await withFull();
    const relay = await startBreakable(lab);
    await writeBoth(lab, 0, 0x41, 8);
    const catalog = await catalogOf(lab);
    const run = startRun([
      ...['--socket', relay.path, 'backup', '--level', 'inc'],
      ...['--target', lab.target, '--speed-limit', '1M'],
    ]);
    await untilCopying(lab, run);
    await writeBoth(lab, 6, 0x42, 4);
    relay.breakOff();
    const ending = await run.ended;
    expect(ending.exitCode).toBe(1);
    expect(errorOf(ending.stdout).message).toContain('monitor was lost');
    expect(await catalogOf(lab)).toBe(catalog);
    await expectNextInc(lab);
  });
});

describe('with --quiesce the guest is thawed', () => {
  it('when QEMU refuses the transaction', async () => {
    const { lab, agent, quiesced } = await withAgent();
    // A mirror job has its disk to itself. It comes when all has been looked at.
    const socket = join(lab.dir, 'relay.sock');
    const relay = await openRelay(socket, lab.vm.socket, async ({ direction, text }, pass) => {
      if (direction === 'to-qemu' && text.includes('drive-backup')) {
        await lab.vm.control.execute('drive-mirror', {
          ...{ device: 'd1', 'job-id': 'mirror', sync: 'full', format: 'qcow2', speed: 1024 },
          target: join(lab.dir, 'mirror.qcow2'),
        });
      }
      pass();
    });
    afterTest(() => relay.close());
    const catalog = await catalogOf(lab);
    const args = quiesced.map((word) => (word === lab.vm.socket ? socket : word));
    const { stderr } = await expectCli(1, [...args, '--level', 'inc']);
    expect(stderr).toMatch(/is busy: .*; d1: .*mirror.*\n.*No point was made and no change is lost/);
    expect(agent.changes.map(({ frozen }) => frozen)).toEqual([true, false]);
    expect(await catalogOf(lab)).toBe(catalog);
    await lab.vm.control.execute('job-cancel', { id: 'mirror' });
    await expectNextQuiesced(lab, agent);
  });

  it.each([
    { name: 'before the transaction', when: 'before', call: 'send', matches: /"transaction"/ },
    { name: 'after the transaction', when: 'after', call: 'send', matches: /"transaction"/ },
  ] as const)('when the tool is killed just $name', async (point) => {
    const { lab, agent, quiesced } = await withAgent();
    await crashCli(point, [...quiesced, '--level', 'inc']);
    await agent.waitUntil(({ changes }) => changes.length === 2, 10_000, 'a freeze and a thaw');
    expect(agent.frozen).toBe(false);
    await expectNextQuiesced(lab, agent);
  });

  it.each([
    { signal: 'SIGTERM', exitCode: 143 },
    { signal: 'SIGKILL', exitCode: undefined },
  ] as const)('when the tool gets $signal while the agent still freezes', async ({ signal, exitCode }) => {
    const { lab, agent, quiesced } = await withAgent();
    let goOn = (): void => undefined;
    const until = new Promise<void>((resolve) => (goOn = resolve));
    agent.script = (command) => (command === 'guest-fsfreeze-freeze' ? { until } : undefined);
    const run = startRun([...quiesced.slice(1), '--level', 'inc']);
    await agent.waitUntil((seen) => seen.count('guest-fsfreeze-freeze') === 1, 20_000, 'the freeze');
    run.kill(signal);
    if (signal === 'SIGKILL') await run.ended;
    goOn();
    expect(await run.ended).toMatchObject({ exitCode });
    await agent.waitUntil(({ changes }) => changes.length === 2, 10_000, 'a freeze and a thaw');
    expect(agent.frozen).toBe(false);
    agent.script = () => undefined;
    await expectNextQuiesced(lab, agent);
  });

  it('and nothing is changed, when nobody answers on the agent socket and the freeze is required', async () => {
    const lab = await withFull({ silentAgent: true });
    await lab.vm.control.execute('cont');
    const before = { catalog: await catalogOf(lab), bitmaps: await lab.bitmaps() };
    const refused = await expectCli(1, [
      ...['--json', '--socket', lab.vm.socket, '--agent-socket', lab.vm.agentSocket],
      ...['backup', '--target', lab.target, '--level', 'inc', '--quiesce=require'],
    ]);
    expect(errorOf(refused.stdout).message).toContain('--quiesce=require');
    const rehearsed = await expectCli(1, [
      ...['--json', '--socket', lab.vm.socket, '--agent-socket', lab.vm.agentSocket],
      ...['backup', '--target', lab.target, '--level', 'inc', '--quiesce=require', '--dry-run'],
    ]);
    expect(errorOf(rehearsed.stdout)).toEqual(errorOf(refused.stdout));
    expect({ catalog: await catalogOf(lab), bitmaps: await lab.bitmaps() }).toEqual(before);
    await lab.expectNothingLeft(1);
    await expectNextInc(lab);
  });
});

// --- what happens around the interruption ----------------------------------------------------------------------------

/** An INC of 8 MiB on each disk that would take 8 s, seen copying; some of it and other parts are written meanwhile. */
async function slowInc(lab: Scenario, ...more: readonly string[]) {
  await writeBoth(lab, 0, 0x41, 8);
  const [catalog, bitmaps] = [await catalogOf(lab), await lab.bitmaps()];
  const run: RunningBackup = startBackup(lab, 'inc', '--speed-limit', '1M', '--fleece', 'never', ...more);
  const jobs = await untilCopying(lab, run, more.includes('--include') ? 1 : 2);
  await writeBoth(lab, 6, 0x42, 4);
  await writeBoth(lab, 20, 0x43);
  return { run, jobs, catalog, bitmaps };
}

function jobOf(jobs: readonly Job[], disk: string): string {
  return jobs.find(({ id }) => id.endsWith(`-${disk}`))!.id;
}

async function killSlowInc(lab: Scenario): Promise<void> {
  const { run, catalog } = await slowInc(lab);
  run.kill('SIGKILL');
  expect(await run.ended).toMatchObject({ signal: 'SIGKILL' });
  expect(await catalogOf(lab)).toBe(catalog);
  expect(await filesOf(lab)).toContain('run.json');
}

/** The INC after the interrupted one holds all that was written before, during and after it. */
async function expectNextInc(
  lab: Scenario,
  { number = 1, bitmaps = 2 }: { readonly number?: number; readonly bitmaps?: number } = {},
): Promise<void> {
  await writeBoth(lab, 40, 0x44);
  const { point } = await lab.backup('inc');
  expect(point).toMatchObject({
    number,
    level: 'inc',
    disks: [{ level: 'inc' }, { level: 'inc' }],
  });
  await lab.expectChainEqualsDisks();
  await lab.expectNothingLeft(bitmaps);
}

async function catalogOf({ target }: Scenario): Promise<string> {
  return readFile(join(target, 'catalog.json'), 'utf8');
}

/** Files of the target but the catalog with its copies and the lists of pieces, with those that begin with a dot. */
async function filesOf({ target }: Scenario): Promise<readonly string[]> {
  const entries = await readdir(target, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map(({ name }) => name);
  return files.filter((name) => !/^catalog(-copy-\d)?\.json$/.test(name) && !name.endsWith('.pieces')).toSorted();
}

interface CliError {
  readonly code: string;
  readonly exitCode: number;
  readonly message: string;
}

function errorOf(stdout: string): CliError {
  return (JSON.parse(stdout) as { error: CliError }).error;
}

async function foreignBackup(lab: Scenario, disk: string, speed = 0): Promise<void> {
  const file = join(lab.dir, 'foreign.qcow2');
  await createImage({ file, format: 'qcow2', size: 64 * MiB });
  await lab.vm.control.execute('blockdev-add', {
    ...{ driver: 'qcow2', 'node-name': 'foreign-target' },
    file: { driver: 'file', filename: file },
  });
  await lab.vm.control.execute('blockdev-backup', {
    ...{ 'job-id': 'foreign', device: disk, target: 'foreign-target', sync: 'full', speed, 'auto-dismiss': false },
  });
}

async function foreignConcluded(lab: Scenario): Promise<void> {
  for (;;) {
    const jobs = (await lab.vm.control.execute('query-jobs')) as {
      id: string;
      status: string;
    }[];
    if (jobs.some(({ id, status }) => id === 'foreign' && status === 'concluded')) return;
    await sleep(20);
  }
}

/** QEMU that hears of its file size limit by an error; else the kernel would end it by SIGXFSZ. */
async function qemuThatHearsOfLimits(): Promise<string> {
  const file = join(await labDir(), 'qemu');
  await writeFile(file, `#!/bin/sh\ntrap '' XFSZ\nexec qemu-system-x86_64 "$@"\n`, { mode: 0o755 });
  return file;
}

/** A socket before the tool's monitor whose connections the test can break off while QEMU goes on. */
async function startBreakable(lab: Scenario): Promise<{ readonly path: string; breakOff(): void }> {
  const path = join(lab.dir, 'relay.sock');
  const open = new Set<Socket>();
  const server = createServer((client) => {
    const monitor = connect(lab.vm.socket);
    for (const [from, to] of [[client, monitor] as const, [monitor, client] as const]) {
      open.add(from);
      from.on('error', () => undefined);
      from.on('close', () => to.destroy());
      from.pipe(to);
    }
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const breakOff = (): void => open.forEach((socket) => socket.destroy());
  afterTest(async () => {
    breakOff();
    await new Promise((resolve) => server.close(resolve));
  });
  return { path, breakOff };
}

/** A running VM with a FULL and an agent that freezes two file systems. */
async function withAgent(): Promise<{
  lab: Scenario;
  agent: FakeAgent;
  quiesced: readonly string[];
}> {
  const lab = await withFull();
  // No agent is called for a VM that is not running; this one finds nothing to boot.
  await lab.vm.control.execute('cont');
  const agent = await FakeAgent.start();
  afterTest(() => agent.close());
  await writeBoth(lab, 0, 0x41);
  return { lab, agent, quiesced: [...agentArguments(lab, agent), 'backup', '--target', lab.target, '--quiesce'] };
}

function agentArguments(lab: Scenario, { endpoint }: FakeAgent): string[] {
  const path = endpoint.kind === 'unix' ? endpoint.path : '';
  return ['--json', '--socket', lab.vm.socket, '--agent-socket', path];
}

async function expectNextQuiesced(lab: Scenario, agent: FakeAgent): Promise<void> {
  await writeBoth(lab, 40, 0x44);
  const arguments_ = [...agentArguments(lab, agent), 'backup', '--target', lab.target, '--quiesce', '--level', 'inc'];
  const { point } = (await expectCli(0, arguments_)).json<BackupAnswer>();
  expect(point).toMatchObject({ number: 1, level: 'inc', consistency: 'filesystem' });
  expect(agent.frozen).toBe(false);
  await lab.vm.control.execute('stop');
  await lab.expectChainEqualsDisks();
  await lab.expectNothingLeft(2);
}

/** Mulberry32: the same numbers for the same seed. */
function pseudoRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
