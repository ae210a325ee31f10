import { mkdir, readdir, readFile, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { levelsOf } from '../support/comparison.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { FakeAgent } from '../support/fake-agent.js';
import { write } from '../support/lab/guest-writes.js';
import { expectRefused, filesBelow } from '../support/refusal.js';
import { ourJobs, startBackup, untilConcluded, untilCopying } from '../support/running-backup.js';
import { afterTest, scenario, type Scenario, textsOf } from '../support/scenario.js';

interface RecoverAnswer {
  readonly targets: readonly {
    readonly target: string;
    readonly run: { readonly sealed: boolean } | null;
    readonly actions: readonly { readonly kind: string }[];
    readonly left: readonly string[];
  }[];
  readonly vm: readonly { readonly kind: string }[];
}

const withVm = (lab: Scenario): string[] => ['--socket', lab.vm.socket, 'recover', '--target', lab.target];
const offline = (lab: Scenario): string[] => ['recover', '--target', lab.target];

async function answerOf(exitCode: number, args: readonly string[]): Promise<RecoverAnswer> {
  return (await expectCli(exitCode, ['--json', ...args])).json<RecoverAnswer>();
}

function kinds(answer: RecoverAnswer): string[] {
  return [...new Set([...answer.targets.flatMap(({ actions }) => actions), ...answer.vm].map(({ kind }) => kind))];
}

/** A chain whose FULL is sealed, and an INC under way at a crawl that is killed. */
async function killedInc(): Promise<Scenario> {
  const lab = await scenario();
  await lab.backup('full');
  await write(lab.vm, 'd1', { offset: 0, length: 16 * MiB, pattern: 0x11 });
  await write(lab.vm, 'd2', { offset: 0, length: 16 * MiB, pattern: 0x12 });
  const run = startBackup(lab, 'inc', '--speed-limit', '512K');
  await untilCopying(lab, run);
  run.kill('SIGKILL');
  await run.ended;
  return lab;
}

async function expectNextInc(lab: Scenario): Promise<void> {
  await write(lab.vm, 'd1', { offset: 8 * MiB, length: MiB, pattern: 0x21 });
  expect((await lab.backup('inc')).point.level).toBe('inc');
  await lab.expectChainEqualsDisks();
}

/** Runs `step` and expects files, bitmaps and jobs as they were; only the locks of the dead run may have gone. */
async function leavingAll(lab: Scenario, step: () => Promise<unknown>): Promise<void> {
  const seen = async (): Promise<unknown> => ({
    files: (await filesBelow(lab.dir)).filter((name) => !name.includes('.lock')).map((name) => name.split(' ')[0]),
    bitmaps: await lab.bitmaps(),
    jobs: (await ourJobs(lab.vm)).map(({ id }) => id).toSorted(),
  });
  const before = await seen();
  await step();
  expect(await seen()).toEqual(before);
}

describe('recover --socket', () => {
  it('has nothing to do where nothing died, nor in a folder without a backup', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await leavingAll(lab, async () => {
      expect((await expectCli(0, withVm(lab))).stdout).toBe('nothing to repair');
      expect((await expectCli(0, offline(lab))).stdout).toBe('nothing to repair');
      const nowhere = join(lab.dir, 'vm');
      expect((await expectCli(0, ['--socket', lab.vm.socket, 'recover', '--target', nowhere])).stdout).toBe(
        'nothing to repair',
      );
      await expectRefused(10, [...withVm(lab).slice(0, -1), join(lab.dir, 'none')], 'cannot be opened', /hint: /);
    });
  });

  it.each(['while its jobs run', 'after its jobs have ended'])(
    'repairs a killed run %s, in words, leaves what is not ours, and then has nothing to do',
    async (when) => {
      const lab = await killedInc();
      if (when !== 'while its jobs run') await untilConcluded(lab.vm);
      await lab.vm.control.execute('block-dirty-bitmap-add', { node: 'd2', name: 'somebody-else' });
      await leavingAll(lab, async () => {
        const dry = await expectCli(0, [...withVm(lab), '--dry-run']);
        expect(dry.stdout).toMatch(/backup --level inc of .* died before its point was sealed/);
        expect(dry.stdout).toMatch(/would (cancel|dismiss) the (ended )?job qmpbackup-/);
        expect(dry.stdout).toMatch(/would delete d1\/INC-\d+\.qcow2\.partial/);
      });
      const { stdout } = await expectCli(0, withVm(lab));
      expect(stdout).toMatch(/removed the bitmap qmpbackup-\S+ from d2: made by the run of/);
      expect(stdout).toContain('removed run.json');
      await lab.expectNothingLeft(1);
      const nodes = (await lab.vm.control.execute('query-named-block-nodes', { flat: true })) as object[];
      expect(JSON.stringify(nodes)).toContain('somebody-else');
      expect((await expectCli(0, withVm(lab))).stdout).toBe('nothing to repair');
      await expectNextInc(lab);
    },
  );

  it('ends what a run into another target left in the VM', async () => {
    const lab = await killedInc();
    const other = join(lab.dir, 'other');
    await mkdir(other);
    const answer = await answerOf(0, ['--socket', lab.vm.socket, 'recover', '--target', other]);
    expect(kinds(answer)).toEqual(['end-job', 'remove-node', 'take-out-filter', 'delete-scratch']);
    expect(await ourJobs(lab.vm)).toEqual([]);
    expect(await readdir(lab.target)).toContain('run.json');
    await expectNextInc(lab);
  });

  it('repairs after a QEMU that was killed with its run', async () => {
    const lab = await killedInc();
    await lab.vm.kill();
    const gone = await expectCli(12, withVm(lab));
    expect(gone.stderr).toMatch(/hint: /);
    await lab.restart();
    const answer = await answerOf(0, withVm(lab));
    expect(kinds(answer)).toEqual(['delete-scratch', 'delete-file', 'delete-folder', 'remove-journal']);
    await lab.expectNothingLeft(1);
    await write(lab.vm, 'd1', { offset: 8 * MiB, length: MiB, pattern: 0x21 });
    await lab.backup('auto');
    await lab.expectChainEqualsDisks();
  });

  it('refuses the target of another VM, and one that a live run has locked', async () => {
    const lab = await killedInc();
    const stranger = await scenario([{ id: 'd1' }], { name: 'stranger' });
    const args = ['--socket', stranger.vm.socket, 'recover', '--target', lab.target];
    await leavingAll(lab, () => expectRefused(13, args, 'it belongs to VM vm', /hint: /));

    await expectCli(0, withVm(lab));
    const live = startBackup(lab, 'inc', '--speed-limit', '64K');
    await untilCopying(lab, live);
    await expectRefused(11, withVm(lab), /locked by backup into/, /hint: /);
    await expectRefused(11, offline(lab), /locked by backup of/, /hint: /);
    expect(await ourJobs(lab.vm)).toHaveLength(2);
    live.kill('SIGTERM');
    expect(await live.ended).toMatchObject({ exitCode: 143 });
  });

  it('finds the month in which a run died, and so does the first backup of the next month', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const dies: CrashPoint = { when: 'after', call: 'send', matches: /"transaction"/ };
    const backup = ['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--monthly', '--target', lab.target];
    const lastMonth = async (): Promise<void> => {
      await crashCli(dies, backup);
      const [month] = await readdir(join(lab.target, 'vm'));
      await rename(join(lab.target, 'vm', month!), join(lab.target, 'vm', '2001-01'));
    };
    await lastMonth();
    await untilConcluded(lab.vm);
    const answer = await answerOf(0, [...withVm(lab), '--monthly']);
    expect(answer.targets).toMatchObject([{ target: join(lab.target, 'vm', '2001-01'), run: { sealed: false } }]);
    await lab.expectNothingLeft(0);
    await lastMonth();
    await lab.backup('auto', '--monthly');
    await lab.expectNothingLeft(1);
    expect(await readdir(join(lab.target, 'vm', '2001-01'))).toEqual([]);
  });

  it('thaws a guest whose agent has another socket by now', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const agent = await FakeAgent.start();
    afterTest(() => agent.stopListening());
    await lab.vm.control.execute('cont');
    const { path } = agent.endpoint as { path: string };
    const dies: CrashPoint = { when: 'before', call: 'send', matches: /drive-backup/ };
    const backup = ['backup', '--level', 'full', '--quiesce', '--target', lab.target];
    await crashCli(dies, ['--socket', lab.vm.socket, '--agent-socket', path, ...backup]);
    const moved = await FakeAgent.start({ frozen: true });
    afterTest(() => moved.stopListening());
    const at = (moved.endpoint as { path: string }).path;
    const answer = await answerOf(3, ['--agent-socket', at, ...offline(lab)]);
    expect(answer.targets[0]!.actions).toContainEqual({ kind: 'thaw', guest: { kind: 'agent', endpoint: at } });
    expect(moved.frozen).toBe(false);
    await lab.vm.control.execute('stop');
    await answerOf(0, ['--agent-socket', at, ...withVm(lab)]);
    await lab.expectNothingLeft(0);
  });

  it('lets no backup wait for an agent that is gone, and says how to thaw by hand', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const agent = await FakeAgent.start();
    await lab.vm.control.execute('cont');
    const { path } = agent.endpoint as { path: string };
    const dies: CrashPoint = { when: 'before', call: 'send', matches: /drive-backup/ };
    const backup = ['backup', '--level', 'full', '--quiesce', '--target', lab.target];
    await crashCli(dies, ['--socket', lab.vm.socket, '--agent-socket', path, ...backup]);
    await agent.stopListening();
    const next = await lab.backup('auto');
    expect(textsOf(next.warnings).join()).toMatch(/may have left the guest frozen.*thaw it: .*guest-fsfreeze-thaw/);
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(1);
  });
});

describe('recover without a VM', () => {
  it('leaves files that QEMU still writes, removes them later, and keeps the journal for a run that has the VM', async () => {
    const lab = await killedInc();
    await leavingAll(lab, async () => {
      const answer = await answerOf(3, offline(lab));
      expect(answer.targets[0]!.left.join('\n')).toMatch(/d1\/INC-\d+\.qcow2\.partial stays: a QEMU is still writing/);
    });
    await untilConcluded(lab.vm);
    expect((await expectCli(0, [...offline(lab), '--dry-run'])).stdout).toContain('would delete d1/INC-');
    const { stdout } = await expectCli(3, offline(lab));
    expect(stdout).toContain('run.json stays: bitmaps and jobs of that run may still be in the VM');
    const files = await readdir(lab.target, { recursive: true });
    expect(files.filter((file) => file.endsWith('.partial'))).toEqual([]);
    expect(files).toContain('run.json');
    expect((await lab.bitmaps())['d1']).toHaveLength(2);
    await expectCli(0, withVm(lab));
    await lab.expectNothingLeft(1);
    await expectNextInc(lab);
  });

  it('never touches the files of a point that was sealed', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 1 });
    await crashCli({ when: 'after', call: 'rename', matches: /catalog\.json$/ }, [
      ...['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target],
    ]);
    await leavingAll(lab, async () => {
      const answer = await answerOf(3, offline(lab));
      expect(answer.targets).toMatchObject([{ run: { sealed: true }, actions: [] }]);
    });
    await lab.expectChainEqualsDisks();
    await expectCli(0, withVm(lab));
    await lab.expectNothingLeft(2);
    await lab.expectChainEqualsDisks();
  });

  it('needs the name of the VM with --monthly', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const { target } = await lab.backup('auto', '--monthly');
    await expectRefused(2, [...offline(lab), '--monthly'], '--monthly needs the name', /hint: .*--vm-name/);
    expect((await expectCli(0, [...offline(lab), '--monthly', '--vm-name', 'vm'])).stdout).toBe('nothing to repair');
    expect(dirname(dirname(target))).toBe(lab.target);
  });
});

describe('other commands that find the journal of a dead run', () => {
  it('rebase merges what is sealed and says so; the next INC fits', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 1 });
    await lab.backup('inc');
    await write(lab.vm, 'd1', { offset: MiB, length: MiB, pattern: 2 });
    await crashCli({ when: 'before', call: 'rename', matches: /catalog\.json$/ }, [
      ...['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target],
    ]);
    const journal = await readFile(join(lab.target, 'run.json'), 'utf8');
    for (const disk of ['d1', 'd2']) {
      const { stderr } = await expectCli(0, ['rebase', '--dir', join(lab.target, disk)]);
      expect(stderr).toMatch(/warning: the run of .* died; .*qmpbackup recover/);
    }
    expect(await readFile(join(lab.target, 'run.json'), 'utf8')).toBe(journal);
    await expectNextInc(lab);
    await lab.expectNothingLeft(2);
  });

  it('restore, merge and rebase take no file for a backup that was never sealed', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const backup = ['--socket', lab.vm.socket, 'backup', '--level', 'full', '--target', lab.target];
    await crashCli({ when: 'before', call: 'rename', matches: /catalog\.json$/ }, backup);
    const output = join(lab.dir, 'out');
    const dir = join(lab.target, 'd1');
    for (const args of [
      ['restore', '--target', lab.target, '--output', output],
      ['merge', '--dir', dir, '--targetfile', join(output, 'd1.qcow2')],
      ['rebase', '--dir', dir],
    ]) {
      await expectRefused(10, args, /d1\/FULL-\d+\.qcow2 is no backup/, /hint: .*qmpbackup recover/);
    }
    await expectCli(3, offline(lab));
    await expectRefused(10, ['restore', '--target', lab.target, '--output', output], 'there is no backup in');
    await lab.backup('auto');
    await lab.expectChainEqualsDisks();
  });

  it('cleanup --remove-bitmaps ends the jobs that hold bitmaps first', async () => {
    const lab = await killedInc();
    const cleanup = ['--socket', lab.vm.socket, 'cleanup', '--remove-bitmaps'];
    await leavingAll(lab, async () => {
      expect((await expectCli(0, [...cleanup, '--dry-run'])).stdout).toContain('would cancel the job qmpbackup-');
    });
    const { stdout } = await expectCli(0, cleanup);
    // Cancelled before QEMU was asked for its nodes, so they have ended by the time of the repair.
    expect(stdout).toMatch(/dismissed the ended job qmpbackup-/);
    expect(await ourJobs(lab.vm)).toEqual([]);
    expect(Object.values(await lab.bitmaps()).flat()).toEqual([]);
    expect(levelsOf(await lab.backup('auto'))).toEqual(['d1 inc by comparison', 'd2 inc by comparison']);
    await lab.expectNothingLeft(1);
    await lab.expectChainEqualsDisks();
  });
});
