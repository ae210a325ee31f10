import { cp, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { consolidate } from '../../src/operations/consolidate/consolidate.js';
import { listed } from '../../src/operations/list.js';
import { prune } from '../../src/operations/prune/prune.js';
import { verify } from '../../src/operations/verify/verify.js';
import { requireCatalog } from '../../src/repository/catalog-file.js';
import { MiB } from '../support/builders.js';
import {
  copyLab,
  expectSame,
  type Lab,
  makeDisk,
  makeLab,
  pointsOf,
  record,
  withPieceList,
} from '../support/chains.js';
import { expectCli, PROGRAM } from '../support/cli.js';
import { crashArguments, type CrashPoint, crashCli } from '../support/crash-point.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { discard, flush, write, writeZeroes } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import type { Disk } from '../support/lab/qemu.js';
import { type HangingTarget, mountHanging } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { labDir, type Scenario, scenario } from '../support/scenario.js';
import { straysOf } from '../support/target-files.js';

describe('consolidate, of a VM that runs', () => {
  /** Copies of the disks as they were at each point, by id of the point and disk. */
  type Copies = Map<string, string>;

  async function backup(lab: Scenario, copies: Copies): Promise<readonly string[]> {
    const { point } = await lab.backup('auto');
    const { points } = await requireCatalog(lab.target);
    const id = points.at(-1)!.id;
    for (const { id: disk, file } of lab.vm.options.disks) {
      await flush(lab.vm, disk);
      const copy = join(lab.dir, `${id}-${disk}.qcow2`);
      await cp(file!, copy);
      copies.set(`${id} ${disk}`, copy);
    }
    return point.disks.map(({ disk, level }) => `${disk} ${level}`);
  }

  async function change(lab: Scenario, n: number): Promise<void> {
    for (const { id } of lab.vm.options.disks) {
      await write(lab.vm, id, { offset: (n % 6) * 3 * MiB, length: MiB, pattern: n + 1 });
      await writeZeroes(lab.vm, id, { offset: ((n + 4) % 6) * 3 * MiB + 65_536, length: 3 * 65_536 });
      await discard(lab.vm, id, { offset: ((n + 2) % 6) * 3 * MiB + 8 * 65_536, length: 4 * 65_536 });
    }
  }

  /** For a program that follows the headers, and for restore. */
  async function expectPoints(lab: Scenario, copies: Copies): Promise<void> {
    const { points, retiredFiles } = await requireCatalog(lab.target);
    expect(retiredFiles).toBeUndefined();
    for (const { id, disks } of points) {
      for (const { disk, file } of disks) {
        await compareImages(join(lab.target, disk, file), copies.get(`${id} ${disk}`)!);
      }
    }
    await expectCli(0, ['verify', '-t', lab.target, '--read-data']);
    await lab.expectChainEqualsDisks();
  }

  const consolidateTo = (lab: Scenario, ...more: string[]) => expectCli(0, ['consolidate', '-t', lab.target, ...more]);

  it('keeps every point, also of disks that grew, came and went, and its next backup is an increment', async () => {
    const lab = await scenario([
      { id: 'd1', size: 32 * MiB },
      { id: 'd2', size: 32 * MiB },
    ]);
    const copies: Copies = new Map();
    const [d1, d2] = lab.vm.options.disks;
    for (const n of [0, 1]) {
      await change(lab, n);
      await backup(lab, copies);
    }
    const d3: Disk = { id: 'd3', file: join(lab.dir, 'd3.qcow2'), format: 'qcow2' };
    await createImage({ file: d3.file!, format: 'qcow2', size: 32 * MiB });
    await lab.vm.stop();
    await run('qemu-img', ['resize', '-q', d1!.file!, '40M']);
    await lab.restart({ disks: [d1!, d2!, d3] });
    for (const n of [2, 3]) {
      await change(lab, n);
      await write(lab.vm, 'd1', { offset: (34 + n) * MiB, length: MiB, pattern: 0x70 + n });
      await backup(lab, copies);
    }
    await lab.vm.stop();
    await lab.restart({ disks: [d1!, d3] });
    for (const n of [4, 5, 6]) {
      await change(lab, n);
      expect(await backup(lab, copies)).toEqual(['d1 inc', 'd3 inc']);
    }
    // The last state of d2 is in point 3.
    const refused = await expectCli(13, ['consolidate', '-t', lab.target, '--keep', '2']);
    expect(refused.stderr).toContain('no later point has the disk d2');
    const dry = await consolidateTo(lab, '--until', '2', '--dry-run');
    expect(dry.stdout).toContain('point 0 to point 1 would be merged into point 2, which then needs no other');
    const done = await consolidateTo(lab, '--until', '2');
    expect(done.stdout).toContain('point 0 to point 1 were merged into point 2, which now needs no other');
    await expectPoints(lab, copies);
    await change(lab, 7);
    expect(await backup(lab, copies)).toEqual(['d1 inc', 'd3 inc']);

    const pruned = await expectCli(0, ['prune', '-t', lab.target, '--keep-last', '2', '--consolidate']);
    expect(pruned.stdout).toContain('no rule keeps it; its data is merged into the next');
    const left = await requireCatalog(lab.target);
    // Of d2 the last point stays.
    expect(left.points.map(({ number }) => number)).toEqual([3, 6, 7]);
    await expectPoints(lab, copies);
    await change(lab, 8);
    expect(await backup(lab, copies)).toEqual(['d1 inc', 'd3 inc']);

    await consolidateTo(lab, '--keep', '1', '--allow-remove-all');
    expect((await requireCatalog(lab.target)).points.map(({ level }) => level)).toEqual(['full']);
    await expectPoints(lab, copies);
    await change(lab, 9);
    expect(await backup(lab, copies)).toEqual(['d1 inc', 'd3 inc']);
    await expectPoints(lab, copies);
    await lab.expectNothingLeft(2);
  });
});

/** Four points of two disks, whose files have several pieces. */
async function makeChain({ pin }: { readonly pin: boolean }): Promise<Lab> {
  const lab = await makeLab();
  const steps = [0, 1, 2, 3].map((n) => ({
    file: n === 0 ? 'FULL-10.qcow2' : `INC-1${n}.qcow2`,
    ...(n === 0 ? {} : { on: n === 1 ? 'FULL-10.qcow2' : `INC-1${n - 1}.qcow2` }),
    io: [`write -P ${n + 1} ${n}M 6M`, `write -z ${n + 2}M 128k`],
  }));
  const disks = [];
  for (const disk of ['d1', 'd2']) {
    const entries = [];
    for (const each of await makeDisk(lab, disk, steps)) entries.push(await withPieceList(lab, each));
    disks.push(entries);
  }
  const points = pointsOf(...disks).map((each) =>
    each.number === 0 && pin ? { ...each, pinned: true as const } : each,
  );
  await record(lab, points);
  return lab;
}

/** What the catalog names has its bytes, whatever the step that was the last. */
async function expectBytes(lab: Lab, flat: ReadonlyMap<string, string>): Promise<readonly number[]> {
  const { points } = await requireCatalog(lab.target);
  for (const { number, disks } of points) {
    for (const { disk, file } of disks) await expectSame(join(lab.folder(disk), file), flat.get(`${number} ${disk}`)!);
  }
  return points.map(({ number }) => number);
}

/** How a run is cut off at a step, in the target of a lab of its own. */
interface Cut {
  readonly step: CrashPoint;
  readonly place: (start: Lab) => Promise<Lab>;
  readonly run: (step: CrashPoint, args: readonly string[]) => Promise<unknown>;
}

const killed = (step: CrashPoint): Cut => ({ step, place: copyLab, run: crashCli });

/** Cut off in each of these ways, and run again. */
async function cutAtEach(
  cuts: readonly Cut[],
  args: readonly string[],
  again: (target: string) => Promise<unknown>,
  left: readonly number[],
): Promise<void> {
  const start = await makeChain({ pin: left.includes(0) });
  const flat = new Map(
    (await requireCatalog(start.target)).points.flatMap(({ number, disks }) =>
      disks.map(({ disk, file }) => [`${number} ${disk}`, start.flat(disk, file)] as const),
    ),
  );
  const outcomes = new Set<string>();
  for (const [index, { step, place, run: cut }] of cuts.entries()) {
    const lab = await place(start);
    await cut(step, [args[0]!, '-t', lab.target, ...args.slice(1)]);
    outcomes.add((await expectBytes(lab, flat)).join());
    await again(lab.target);
    const [found] = (await verify({ target: lab.target, readData: true })).targets;
    expect(found?.findings, `${index}`).toEqual([]);
    expect(await expectBytes(lab, flat), `${index}`).toEqual(left);
    const all = await readdir(lab.target, { recursive: true });
    expect(straysOf(all), `${index}`).toEqual([]);
    expect(all.filter((file) => file.endsWith('.qcow2'))).toHaveLength(2 * left.length);
    await lab.remove();
  }
  // The old chain or the new one.
  expect([...outcomes].toSorted()).toEqual(['0,1,2,3', left.join()]);
}

const COMMITTED: readonly CrashPoint[] = [
  { when: 'after', call: 'rename', matches: /catalog\.json$/, nth: 2 },
  // The last of its copies, before headers are changed; and when those of one disk, then of all are.
  { when: 'after', call: 'rename', matches: /tmp\n.*catalog-copy-1\.json$/, nth: 3 },
  { when: 'after', call: 'rename', matches: /d1\/INC-13\.qcow2\.pieces$/ },
  { when: 'after', call: 'rm', matches: /\.qcow2$/, nth: 2 },
  { when: 'before', call: 'rename', matches: /catalog\.json$/, nth: 3 },
];

describe('killed at any step, what the catalog names is whole, and the next run ends where one would have:', () => {
  it('consolidate', async () => {
    const steps: readonly CrashPoint[] = [
      { when: 'after', call: 'rename', matches: /catalog\.json$/ },
      // The copy of the FULL, and what is written into it.
      { when: 'after', call: 'spawn', matches: /^dd .*of=/ },
      { when: 'before', call: 'spawn', matches: /qemu-storage-daemon/ },
      { when: 'after', call: 'send', matches: /block-export-del/ },
      { when: 'before', call: 'send', matches: /"merged"/, nth: 2 },
      { when: 'after', call: 'rename', matches: /FULL-\d+\.qcow2\.pieces\.partial\n/ },
      { when: 'before', call: 'spawn', matches: /^qemu-img check/, nth: 2 },
      ...COMMITTED,
    ];
    const again = (target: string) => consolidate({ target, keep: 2 });
    await cutAtEach(steps.map(killed), ['consolidate', '--keep', '2'], again, [2, 3]);
  });

  it('prune --consolidate', async () => {
    const steps: readonly CrashPoint[] = [
      { when: 'before', call: 'spawn', matches: /qemu-nbd/, nth: 2 },
      { when: 'after', call: 'spawn', matches: /qemu-nbd.*detect-zeroes/ },
      { when: 'after', call: 'rename', matches: /INC-\d+\.qcow2\.partial\n/ },
      { when: 'before', call: 'rename', matches: /catalog\.json$/, nth: 2 },
      ...COMMITTED.slice(1, 3),
    ];
    const again = (target: string) => prune({ target, keepLast: 2, consolidate: true });
    await cutAtEach(steps.map(killed), ['prune', '--keep-last', '2', '--consolidate'], again, [0, 2, 3]);
  });
});

describe('a target that hangs in the middle: what the catalog names is whole when it answers, and the next run ends where one would have:', () => {
  type EndingOfHang = 'answers' | 'SIGTERM' | 'SIGTERM alone' | 'SIGKILL';

  /** From `step` on the target hangs; the run goes on when it answers again, or has been told to end meanwhile. */
  async function hang(
    target: HangingTarget,
    step: CrashPoint,
    ending: EndingOfHang,
    args: readonly string[],
  ): Promise<void> {
    const child = execa(process.execPath, [...crashArguments({ ...step, stops: target.server }), PROGRAM, ...args], {
      ...{ reject: false, detached: true, timeout: patient(120_000), env: { NO_COLOR: '1' } },
    });
    const whole = child.then((result) => ({ result }));
    let over = false;
    void whole.then(() => (over = true));
    while (!(await isStopped(target.server))) {
      if (over) throw new Error(`it did not come to this: ${step.matches.source}\n${(await whole).result.stderr}`);
      await sleep(20);
    }
    if (ending === 'SIGTERM alone') {
      // Not by execa, which would kill it 5 s later.
      process.kill(child.pid!, 'SIGTERM');
      const { exitCode, stderr } = (await whole).result;
      expect([exitCode, stderr]).toEqual([
        143,
        expect.stringContaining('the target does not answer: ended without it'),
      ]);
      target.answer();
      // What the kernel still held has ended by now, or does so.
      await expect.poll(() => groupIsGone(child.pid!), { timeout: patient(30_000) }).toBe(true);
      return;
    }
    // To all of its group: what a kernel holds in a call that is under way, not even SIGKILL ends.
    if (ending !== 'answers') process.kill(-child.pid!, ending);
    target.answer();
    const { exitCode, signal, stderr } = (await whole).result;
    const allowed = { answers: [0], SIGTERM: [0, 143], SIGKILL: ['SIGKILL'] }[ending];
    expect(allowed, stderr).toContain(exitCode ?? signal);
  }

  function groupIsGone(leader: number): boolean {
    try {
      process.kill(-leader, 0);
      return false;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return true;
      throw error;
    }
  }

  async function isStopped(pid: number): Promise<boolean> {
    return /^State:\s+T/m.test(await readFile(`/proc/${pid}/status`, 'utf8'));
  }

  /** Runs that hang at a step, and end so, on one file system. */
  async function cutsAt(hangs: readonly (readonly [EndingOfHang, CrashPoint])[]): Promise<readonly Cut[]> {
    const folder = join(await labDir(), 'nfs');
    const mounted = await mountHanging(folder);
    let count = 0;
    const place = async (start: Lab): Promise<Lab> => {
      count += 1;
      const target = join(folder, `${count}`);
      await cp(start.target, target, { recursive: true, preserveTimestamps: true });
      return { ...start, target, folder: (disk) => join(target, disk), remove: () => Promise.resolve() };
    };
    return hangs.map(([ending, step]) => ({ step, place, run: (at, args) => hang(mounted, at, ending, args) }));
  }

  it('prune --consolidate', async () => {
    const cuts = await cutsAt([
      ['SIGTERM', { when: 'after', call: 'rename', matches: /catalog\.json$/ }],
      ['SIGKILL', { when: 'before', call: 'spawn', matches: /qemu-nbd/, nth: 2 }],
      ['SIGKILL', { when: 'after', call: 'rename', matches: /catalog\.json$/, nth: 2 }],
    ]);
    const again = (target: string) => prune({ target, keepLast: 2, consolidate: true });
    await cutAtEach(cuts, ['prune', '--keep-last', '2', '--consolidate'], again, [0, 2, 3]);
  });

  it('consolidate', async () => {
    const cuts = await cutsAt([
      ['SIGTERM alone', { when: 'after', call: 'rename', matches: /catalog\.json$/ }],
      ['SIGTERM', { when: 'after', call: 'spawn', matches: /^qemu-img check/ }],
      ['SIGTERM alone', { when: 'after', call: 'rename', matches: /catalog\.json$/, nth: 2 }],
    ]);
    const again = (target: string) => consolidate({ target, keep: 2 });
    await cutAtEach(cuts, ['consolidate', '--keep', '2'], again, [2, 3]);
  });
});

it('is no damage to who lists the target meanwhile, and had read what it was before', async () => {
  const lab = await makeChain({ pin: false });
  const before = await requireCatalog(lab.target);
  expect((await listed(lab.target, before)).points).toHaveLength(4);
  await expectCli(0, ['consolidate', '-t', lab.target, '--keep', '2']);
  const { points, warnings } = await listed(lab.target, before);
  expect(points.map(({ point, notWhole }) => [point.number, notWhole])).toEqual([
    [2, null],
    [3, null],
  ]);
  expect(warnings).toEqual([]);
  // What nobody has dropped is damage all the same.
  await rm(join(lab.folder('d1'), 'INC-13.qcow2'));
  expect((await listed(lab.target, before)).points.map(({ notWhole }) => notWhole)).toEqual([
    null,
    expect.stringMatching(/^d1\/INC-13\.qcow2: /),
  ]);
  await lab.remove();
});
