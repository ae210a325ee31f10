import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFile, open, readFile, rename, rm, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe as suite, expect, it } from 'vitest';
import type { Catalog } from '../../src/core/catalog.js';
import { latestFile, latestFull, backingChainOf } from '../../src/core/chain.js';
import { PIECES_SUFFIX } from '../../src/core/pieces.js';
import type { PointDisk } from '../../src/core/point.js';
import { REBASE_NOTE } from '../../src/import/legacy-disk.js';
import { defaultRebaseDeps, rebase, type RebaseDeps, type RebaseEvent } from '../../src/operations/rebase/rebase.js';
import { requireCatalog } from '../../src/repository/catalog-file.js';
import { checkChain } from '../../src/repository/chain-check.js';
import { digestByPieces, findDigestFault } from '../../src/repository/digest.js';
import { lockTarget } from '../../src/repository/lock.js';
import { MiB } from '../support/builders.js';
import {
  copyLab,
  describe,
  expectSame,
  fakeQemuImg,
  filesIn,
  type Lab,
  makeDisk,
  makeLab,
  photograph,
  pointsOf,
  record,
  refusal,
  rot,
  type Step,
} from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';

/** Data over data, zeros over data, discards, a disk that grows twice: all that an increment can hold. */
const CHAIN: readonly Step[] = [
  { file: 'FULL-100.qcow2', io: ['write -P 1 0 6M', 'write -P 2 8M 2M'] },
  { file: 'INC-101.qcow2', on: 'FULL-100.qcow2', io: ['write -P 3 1M 1M', 'write -z 4M 1M'] },
  { file: 'INC-102.qcow2', on: 'INC-101.qcow2', size: 24, io: ['write -P 4 17M 2M', 'write -P 5 4M 64k'] },
  { file: 'INC-103.qcow2', on: 'INC-102.qcow2', size: 24, io: ['write -z 17M 512k', 'write -P 6 100k 3k'] },
  { file: 'INC-104.qcow2', on: 'INC-103.qcow2', size: 32, io: ['write -P 7 31M 1M', 'discard 0 64k'] },
];

async function chainLab(steps: readonly Step[] = CHAIN): Promise<Lab> {
  const lab = await makeLab();
  await record(lab, pointsOf(await makeDisk(lab, 'vda', steps)));
  return lab;
}

interface Call {
  readonly until?: string;
  readonly dryRun?: boolean;
  readonly skipCheck?: boolean;
  readonly rateLimit?: number;
  readonly signal?: AbortSignal;
  readonly deps?: Partial<RebaseDeps>;
  readonly events?: RebaseEvent[];
  readonly disk?: string;
}

function merge(lab: Lab, call: Call = {}): ReturnType<typeof rebase> {
  return rebase(
    {
      dir: lab.folder(call.disk ?? 'vda'),
      until: call.until,
      dryRun: call.dryRun ?? false,
      skipCheck: call.skipCheck ?? false,
      rateLimit: call.rateLimit,
      breakLock: false,
    },
    {
      signal: call.signal ?? new AbortController().signal,
      report: (event) => {
        call.events?.push(event);
      },
    },
    { ...defaultRebaseDeps, ...call.deps },
  );
}

/** Every file that the catalog promises is as it says. */
/** It is larger than a piece. */
const MERGED_FULL = ['FULL-100.qcow2', `FULL-100.qcow2${PIECES_SUFFIX}`];

async function expectTrueCatalog(lab: Lab): Promise<Catalog> {
  const catalog = await requireCatalog(lab.target);
  for (const entry of catalog.points.flatMap(({ disks }) => disks)) {
    if (entry.state !== 'whole') continue;
    const line = backingChainOf(catalog, entry);
    expect(line).toHaveProperty('files');
    if ('files' in line) expect((await checkChain(lab.target, line.files)).findings).toEqual([]);
    expect(await findDigestFault(join(lab.folder(entry.disk), entry.file), entry)).toBeUndefined();
  }
  return catalog;
}

suite('rebase', () => {
  it('merges the whole chain into the FULL, which then is the newest state', async () => {
    const lab = await chainLab();
    const before = await requireCatalog(lab.target);
    const events: RebaseEvent[] = [];
    await writeFile(join(lab.folder('vda'), `INC-102.qcow2${PIECES_SUFFIX}`), 'goes with the file');
    const result = await merge(lab, { events });

    expect(result).toMatchObject({
      full: 'FULL-100.qcow2',
      head: 'INC-104.qcow2',
      merged: ['INC-101.qcow2', 'INC-102.qcow2', 'INC-103.qcow2', 'INC-104.qcow2'],
      lost: [],
      resumes: false,
    });
    expect(await filesIn(lab.folder('vda'))).toEqual(MERGED_FULL);
    await expectSame(join(lab.folder('vda'), 'FULL-100.qcow2'), lab.flat('vda', 'INC-104.qcow2'));
    const after = await expectTrueCatalog(lab);
    const { pieces, list } = await digestByPieces(join(lab.folder('vda'), 'FULL-100.qcow2'), 'sha256');
    expect(after.points[0]?.disks[0]).toMatchObject({ sha256: null, pieces });
    expect(await readFile(join(lab.folder('vda'), `FULL-100.qcow2${PIECES_SUFFIX}`), 'utf8')).toBe(list);
    const head = before.points[4]?.disks[0];
    expect(after.points).toHaveLength(1);
    expect(after.points[0]).toMatchObject({ number: 4, level: 'full' });
    expect(after.points[0]?.disks[0]).toMatchObject({
      file: 'FULL-100.qcow2',
      level: 'full',
      parent: null,
      state: 'whole',
      virtualSize: 32 * MiB,
      bitmap: head?.bitmap,
    });
    expect(after.retired).toEqual(before.points.slice(0, 4).map(({ disks }) => disks[0]?.bitmap?.name));
    // What the next increment and the next DIFF build on.
    expect(latestFile(after, 'vda')?.bitmap).toEqual(head?.bitmap);
    expect(latestFull(after, 'vda')?.file).toBe('FULL-100.qcow2');
    expect(events.filter(({ kind }) => kind === 'progress').length).toBeGreaterThan(1);
    expect(await filesIn(lab.target)).toEqual(['catalog-copy-1.json', 'catalog-copy-2.json', 'catalog.json', 'vda']);
  });

  it('merges up to a file, and what builds on that builds on the FULL', async () => {
    const lab = await chainLab();
    const folder = lab.folder('vda');
    const result = await merge(lab, { until: 'INC-102' });
    expect(result).toMatchObject({ head: 'INC-102.qcow2', relinked: ['INC-103.qcow2'] });
    expect(await filesIn(folder)).toEqual([...MERGED_FULL, 'INC-103.qcow2', 'INC-104.qcow2']);
    await expectSame(join(folder, 'FULL-100.qcow2'), lab.flat('vda', 'INC-102.qcow2'));
    await expectSame(join(folder, 'INC-103.qcow2'), lab.flat('vda', 'INC-103.qcow2'));
    await expectSame(join(folder, 'INC-104.qcow2'), lab.flat('vda', 'INC-104.qcow2'));
    const catalog = await expectTrueCatalog(lab);
    expect(catalog.points.map(({ number }) => number)).toEqual([2, 3, 4]);
    expect(catalog.points[1]?.disks[0]?.parent).toBe('FULL-100.qcow2');

    expect(await merge(lab, { until: 'FULL-100.qcow2' })).toMatchObject({ merged: [], removed: [] });
    await merge(lab);
    await expectSame(join(folder, 'FULL-100.qcow2'), lab.flat('vda', 'INC-104.qcow2'));
  });

  it('changes nothing with --dry-run, and says what it would do', async () => {
    const lab = await chainLab();
    const before = await photograph(lab.target);
    expect(await merge(lab, { dryRun: true })).toMatchObject({ head: 'INC-104.qcow2', dryRun: true, removed: [] });
    expect(await photograph(lab.target)).toEqual(before);
  });

  it('merges one disk and leaves the other; a point goes when nothing is left of it', async () => {
    const lab = await makeLab();
    const [a, b] = [await makeDisk(lab, 'vda', CHAIN.slice(0, 3)), await makeDisk(lab, 'vdb', CHAIN.slice(0, 3))];
    await record(lab, pointsOf(a, b));
    const other = await photograph(lab.folder('vdb'));
    await merge(lab);
    expect(await photograph(lab.folder('vdb'))).toEqual(other);
    const half = await expectTrueCatalog(lab);
    expect(half.points.map(({ disks }) => disks.map(({ state }) => state))).toEqual([
      ['merged', 'whole'],
      ['merged', 'whole'],
      ['whole', 'whole'],
    ]);
    expect(half.retired).toEqual([]);
    await merge(lab, { disk: 'vdb' });
    const both = await expectTrueCatalog(lab);
    expect(both.points).toHaveLength(1);
    expect(both.points[0]?.level).toBe('full');
    expect(both.retired).toHaveLength(4);
    await expectSame(join(lab.folder('vdb'), 'FULL-100.qcow2'), lab.flat('vdb', 'INC-102.qcow2'));
  });

  it('only merges the branch of the newest FULL', async () => {
    const second: Step[] = [
      { file: 'FULL-200.qcow2', io: ['write -P 9 0 1M'] },
      { file: 'INC-201.qcow2', on: 'FULL-200.qcow2', io: ['write -P 8 1M 1M'] },
    ];
    const lab = await chainLab([...CHAIN.slice(0, 2), ...second]);
    expect(await merge(lab)).toMatchObject({ full: 'FULL-200.qcow2', head: 'INC-201.qcow2' });
    expect(await filesIn(lab.folder('vda'))).toEqual(['FULL-100.qcow2', 'FULL-200.qcow2', 'INC-101.qcow2']);
    expect(await merge(lab, { until: 'INC-101.qcow2' })).toMatchObject({ full: 'FULL-100.qcow2' });
    await expectTrueCatalog(lab);
  });

  it('loses older branches, and refuses where a newer one would be lost', async () => {
    const steps: Step[] = [
      ...CHAIN.slice(0, 2),
      { file: 'DIFF-102.qcow2', on: 'FULL-100.qcow2', io: ['write -P 8 0 1M'] },
      { file: 'INC-103.qcow2', on: 'DIFF-102.qcow2', io: ['write -P 9 2M 1M'] },
    ];
    const lab = await chainLab(steps);
    const before = await photograph(lab.target);
    const refused = await refusal(merge(lab, { until: 'INC-101.qcow2' }));
    expect(refused).toMatchObject({ code: 'unsafe' });
    expect(refused.message).toContain('DIFF-102.qcow2 builds on FULL-100.qcow2');
    expect(await photograph(lab.target)).toEqual(before);

    expect(await merge(lab)).toMatchObject({ merged: ['DIFF-102.qcow2', 'INC-103.qcow2'], lost: ['INC-101.qcow2'] });
    expect(await filesIn(lab.folder('vda'))).toEqual(MERGED_FULL);
    await expectSame(join(lab.folder('vda'), 'FULL-100.qcow2'), lab.flat('vda', 'INC-103.qcow2'));
    expect((await expectTrueCatalog(lab)).points).toHaveLength(1);
  });

  it('merges a chain of 40 increments, a few at a time, also after an interruption', async () => {
    const steps = Array.from({ length: 41 }, (_, index): Step => {
      const size = 16 + Math.floor(index / 10) * 4;
      const io = [`write -P ${index + 1} ${(index * 7) % 15}M 700k`, `write -z ${(index * 5) % 15}M 200k`];
      if (size > 16) io.push(`write -P ${index + 100} ${size - 1}M 64k`);
      if (index === 0) return { file: 'FULL-1000.qcow2', io, size };
      const on = index === 1 ? 'FULL-1000.qcow2' : `INC-${999 + index}.qcow2`;
      return { file: `INC-${1000 + index}.qcow2`, on, io, size };
    });
    const lab = await chainLab(steps);
    let commits = 0;
    const commit: RebaseDeps['commit'] = async (...args) => {
      await defaultRebaseDeps.commit(...args);
      commits += 1;
      if (commits === 4) throw new Error('crash');
    };
    await expect(merge(lab, { deps: { filesAtOnce: 11, commit } })).rejects.toThrow('crash');
    expect(await merge(lab, { deps: { filesAtOnce: 7 } })).toMatchObject({ resumes: true, head: 'INC-1040.qcow2' });
    await expectSame(join(lab.folder('vda'), 'FULL-1000.qcow2'), lab.flat('vda', 'INC-1040.qcow2'));
    await expectTrueCatalog(lab);
  });

  it('has nothing to merge in a FULL alone', async () => {
    const lab = await chainLab(CHAIN.slice(0, 1));
    const before = await photograph(lab.target);
    expect(await merge(lab)).toMatchObject({ full: 'FULL-100.qcow2', head: 'FULL-100.qcow2', merged: [] });
    expect(await photograph(lab.target)).toEqual(before);
  });
});

suite('an interrupted rebase', () => {
  /** Steps that change something or prove something: a crash before and after each of them is tried. */
  const STEPS = [
    'writeCatalog',
    'writeRebaseNote',
    'removeRebaseNote',
    'removeFile',
    'syncFolder',
    'syncFile',
    'rebaseUnsafe',
    'check',
    'commit',
    'compare',
    'digestByPieces',
    'findDigestFault',
    'replacePieceList',
    'removePieceList',
    'fileState',
  ] as const;

  class Crash extends Error {}

  /** Deps that throw at the n-th step, before or after it is done; `count` is how many there were. */
  function crashing(at: number, when: 'before' | 'after'): { deps: Partial<RebaseDeps>; count: () => number } {
    let count = 0;
    const deps: Record<string, unknown> = {};
    for (const name of STEPS) {
      const step = defaultRebaseDeps[name] as (...args: unknown[]) => Promise<unknown>;
      deps[name] = async (...args: unknown[]) => {
        const here = count === at;
        count += 1;
        if (here && when === 'before') throw new Crash(`before ${name}`);
        const value = await step(...args);
        if (here) throw new Crash(`after ${name}`);
        return value;
      };
    }
    return { deps, count: () => count };
  }

  function withoutFacts(catalog: Catalog): unknown {
    const strip = (each: PointDisk): unknown => ({ ...each, mtimeMs: 0, size: 0, allocated: 0, pieces: null });
    return { ...catalog, points: catalog.points.map((each) => ({ ...each, disks: each.disks.map(strip) })) };
  }

  async function crashEverywhere(
    lab: Lab,
    call: Call,
    expectDone: (done: Lab) => Promise<void>,
    catalog: boolean,
  ): Promise<void> {
    const whole = await copyLab(lab);
    const counter = crashing(-1, 'before');
    await merge(whole, { ...call, deps: counter.deps });
    await expectDone(whole);
    const expected = catalog ? withoutFacts(await requireCatalog(whole.target)) : undefined;
    const files = await filesIn(whole.folder('vda'));
    // Before each step, and after the last: nothing lies between the end of one and the beginning of the next.
    const last = counter.count() - 1;
    const crashes = Array.from({ length: last + 1 }, (_, at) => ({ at, when: 'before' as const }));
    for (const { at, when } of [...crashes, { at: last, when: 'after' as const }]) {
      const again = await copyLab(lab);
      await expect(merge(again, { ...call, deps: crashing(at, when).deps })).rejects.toThrow(Crash);
      // After the very last step the file that was asked for is known no more, as after a run that was not killed.
      if (when === 'after') expect(await refusal(merge(again, call))).toMatchObject({ code: 'usage' });
      else await merge(again, call);
      await expectDone(again);
      if (catalog) expect(withoutFacts(await expectTrueCatalog(again)), `${when} step ${at}`).toEqual(expected);
      expect(await filesIn(again.folder('vda')), `${when} step ${at}`).toEqual(files);
      await again.remove();
    }
  }

  it('ends in the same state whatever step was the last', async () => {
    const lab = await chainLab();
    const folder = (each: Lab): string => each.folder('vda');
    await crashEverywhere(
      lab,
      { until: 'INC-102.qcow2' },
      async (done) => {
        await expectSame(join(folder(done), 'FULL-100.qcow2'), done.flat('vda', 'INC-102.qcow2'));
        await expectSame(join(folder(done), 'INC-104.qcow2'), done.flat('vda', 'INC-104.qcow2'));
      },
      true,
    );
  });

  it('ends in the same state in a folder without a catalog', async () => {
    const lab = await makeLab();
    await makeDisk(lab, 'vda', CHAIN);
    await crashEverywhere(
      lab,
      { until: 'INC-102.qcow2' },
      async (done) => {
        await expectSame(join(done.folder('vda'), 'FULL-100.qcow2'), done.flat('vda', 'INC-102.qcow2'));
        await expectSame(join(done.folder('vda'), 'INC-104.qcow2'), done.flat('vda', 'INC-104.qcow2'));
      },
      false,
    );
  });

  it('ends in the same bytes when qemu-img is killed in the middle of the merge', async () => {
    const lab = await chainLab([
      { file: 'FULL-100.qcow2', size: 64, io: ['write -P 1 0 64M'] },
      { file: 'INC-101.qcow2', on: 'FULL-100.qcow2', size: 96, io: ['write -P 2 0 40M', 'write -P 3 70M 20M'] },
    ]);
    const photo = await photograph(lab.target);
    const commit: RebaseDeps['commit'] = async (view, base, { cwd }) => {
      const child = spawn('qemu-img', ['commit', '-p', '-d', '-r', '20M', '-b', base, view], { cwd });
      for await (const chunk of child.stdout) if (/\((?:[3-9]\d)\./.test(String(chunk))) break;
      child.kill('SIGKILL');
      await once(child, 'close');
      throw new Error('killed');
    };
    await expect(merge(lab, { deps: { commit } })).rejects.toThrow('killed');
    expect((await photograph(lab.target))['vda/FULL-100.qcow2']).not.toBe(photo['vda/FULL-100.qcow2']);
    const states = (await requireCatalog(lab.target)).points.map(({ disks }) => disks[0]?.state);
    expect(states).toEqual(['merging', 'whole']);

    expect(await merge(lab)).toMatchObject({ resumes: true, head: 'INC-101.qcow2' });
    await expectSame(join(lab.folder('vda'), 'FULL-100.qcow2'), lab.flat('vda', 'INC-101.qcow2'));
    await expectTrueCatalog(lab);
  });

  it('is ended by a signal, and finished by the next run only with the same head', async () => {
    const lab = await chainLab([
      { file: 'FULL-100.qcow2', size: 64, io: ['write -P 1 0 64M'] },
      { file: 'INC-101.qcow2', on: 'FULL-100.qcow2', size: 64, io: ['write -P 2 0 40M'] },
      { file: 'INC-102.qcow2', on: 'INC-101.qcow2', size: 64, io: ['write -P 3 20M 40M'] },
    ]);
    const stop = new AbortController();
    let stopped = 0;
    const events: RebaseEvent[] = [];
    const interrupted = rebase(
      { dir: lab.folder('vda'), dryRun: false, skipCheck: false, rateLimit: 24 * MiB, breakLock: false },
      {
        signal: stop.signal,
        report: (event) => {
          events.push(event);
          if (event.kind !== 'progress' || event.percent === 0 || stopped > 0) return;
          stopped = performance.now();
          stop.abort(new Error('stopped by hand'));
        },
      },
    );
    await expect(interrupted).rejects.toThrow('stopped by hand');
    expect(performance.now() - stopped).toBeLessThan(patient(20_000));

    const refused = await refusal(merge(lab, { until: 'INC-101.qcow2' }));
    expect(refused).toMatchObject({ code: 'unsafe' });
    expect(refused.message).toContain('a merge up to INC-102.qcow2 was interrupted');
    await merge(lab, { until: 'INC-102.qcow2' });
    await expectSame(join(lab.folder('vda'), 'FULL-100.qcow2'), lab.flat('vda', 'INC-102.qcow2'));
  });

  it('gives back the leaks of a FULL before it goes on, also with --skip-check', async () => {
    const lab = await chainLab();
    const full = join(lab.folder('vda'), 'FULL-100.qcow2');
    const commit = (): Promise<never> => Promise.reject(new Error('crash'));
    await expect(merge(lab, { deps: { commit } })).rejects.toThrow('crash');
    await leak(full);
    const events: RebaseEvent[] = [];
    await merge(lab, { events, skipCheck: true });
    expect(events).toContainEqual({ kind: 'repaired-leaks', file: 'FULL-100.qcow2', count: 1 });
    expect(JSON.parse((await run('qemu-img', ['check', '--output=json', full])).stdout)).not.toHaveProperty('leaks');
    await expectSame(full, lab.flat('vda', 'INC-104.qcow2'));
  });

  it.each([
    ['was altered after it had its new link', 'INC-103.qcow2', alterWithinSize, 'unsafe', 'it was modified'],
    ['has lost bits before that', 'FULL-100.qcow2', rot, 'damaged', 'INC-103.qcow2 is damaged'],
  ] as const)('does not go on with a child that %s', async (_, last, harm, code, words) => {
    const lab = await chainLab();
    const child = join(lab.folder('vda'), 'INC-103.qcow2');
    const syncFile: RebaseDeps['syncFile'] = async (path) => {
      await defaultRebaseDeps.syncFile(path);
      if (path.endsWith(last)) throw new Error('crash');
    };
    await expect(merge(lab, { until: 'INC-102.qcow2', deps: { syncFile } })).rejects.toThrow('crash');
    await harm(child);
    const refused = await refusal(merge(lab));
    expect(refused).toMatchObject({ code });
    expect(refused.message).toContain(words);
  });
});

/** One more cluster at the end that is counted and not used. */
async function leak(image: string): Promise<void> {
  const handle = await open(image, 'r+');
  try {
    const cluster = 65_536;
    const clusters = Math.ceil((await handle.stat()).size / cluster);
    const header = Buffer.alloc(104);
    await handle.read(header, 0, 104, 0);
    const table = Buffer.alloc(8);
    await handle.read(table, 0, 8, Number(header.readBigUInt64BE(48)));
    await truncate(image, (clusters + 1) * cluster);
    await handle.write(Buffer.from([0, 1]), 0, 2, Number(table.readBigUInt64BE(0)) + 2 * clusters);
  } finally {
    await handle.close();
  }
}

/** Other guest data in the last byte of the file, as a faulty disk may do it. */
async function alterWithinSize(image: string): Promise<void> {
  const handle = await open(image, 'r+');
  try {
    const { size } = await handle.stat();
    await handle.write(Buffer.from([0xee]), 0, 1, size - 1);
  } finally {
    await handle.close();
  }
}

suite('rebase refuses, by name, and changes nothing', () => {
  async function expectRefused(lab: Lab, call: Call, code: string, words: string): Promise<void> {
    const before = await photograph(lab.target);
    const refused = await refusal(merge(lab, call));
    expect(refused.message).toContain(words);
    expect(refused.code).toBe(code);
    expect(await photograph(lab.target)).toEqual(before);
  }

  it('a missing file', async () => {
    const lab = await chainLab();
    await rm(join(lab.folder('vda'), 'INC-102.qcow2'));
    await expectRefused(lab, {}, 'unsafe', 'INC-102.qcow2');
  });

  it('a gap in the catalog', async () => {
    const lab = await makeLab();
    const entries = await makeDisk(lab, 'vda', CHAIN);
    await record(lab, pointsOf(entries.filter(({ file }) => file !== 'INC-102.qcow2')));
    await expectRefused(lab, { until: 'INC-103.qcow2' }, 'unsafe', 'INC-102.qcow2 is missing');
  });

  it('a changed file of the line, and a changed child', async () => {
    const lab = await chainLab();
    await alterWithinSize(join(lab.folder('vda'), 'INC-103.qcow2'));
    await expectRefused(lab, {}, 'unsafe', 'INC-103.qcow2');
    await expectRefused(lab, { until: 'INC-102.qcow2' }, 'unsafe', 'INC-103.qcow2');
  });

  it('a file of the line, or a child, that has lost bits though size and time are as recorded', async () => {
    const lab = await chainLab();
    await rot(join(lab.folder('vda'), 'INC-103.qcow2'));
    await expectRefused(lab, {}, 'damaged', 'INC-103.qcow2 is damaged');
    await expectRefused(lab, { until: 'INC-102.qcow2' }, 'damaged', 'INC-103.qcow2 is damaged');
    await expectRefused(lab, { dryRun: true }, 'damaged', 'INC-103.qcow2 is damaged');
    // What is damaged lies above that and keeps its digest.
    await merge(lab, { until: 'INC-101.qcow2' });
    expect(await refusal(merge(lab))).toMatchObject({ code: 'damaged' });
  });

  it('two files that changed places', async () => {
    const lab = await chainLab();
    const [a, b] = [join(lab.folder('vda'), 'INC-101.qcow2'), join(lab.folder('vda'), 'INC-103.qcow2')];
    await rename(a, `${a}.x`);
    await rename(b, a);
    await rename(`${a}.x`, b);
    await expectRefused(lab, {}, 'unsafe', 'INC-101.qcow2');
  });

  it('a damaged image', async () => {
    const lab = await makeLab();
    const entries = await makeDisk(lab, 'vda', CHAIN);
    const path = join(lab.folder('vda'), 'INC-101.qcow2');
    const handle = await open(path, 'r+');
    await handle.write(Buffer.alloc(64), 0, 64, 131_072); // Its refcounts.
    await handle.close();
    const broken = await describe(lab, 'vda', { ...entries[1]!, file: 'INC-101.qcow2' });
    await record(lab, pointsOf(entries.map((each) => (each.file === broken.file ? { ...each, ...broken } : each))));
    await expectRefused(lab, {}, 'damaged', 'INC-101.qcow2');
  });

  it('--until of nothing, with what there is', async () => {
    const lab = await chainLab();
    const refused = await refusal(merge(lab, { until: 'INC-999' }));
    expect(refused).toMatchObject({ code: 'usage', hint: expect.stringContaining('INC-104.qcow2') as string });
    await expectRefused(lab, { until: 'INC-999' }, 'usage', 'INC-999');
  });

  it('a target that is locked, and a folder that is not there', async () => {
    const lab = await chainLab();
    const lock = await lockTarget(lab.target, { breakLock: false, purpose: 'test' });
    try {
      expect(await refusal(merge(lab))).toMatchObject({ code: 'locked' });
    } finally {
      await lock.release();
    }
    expect(await refusal(merge(lab, { disk: 'vdz' }))).toMatchObject({ code: 'no-catalog' });
  });

  it('a result that is not what was merged', async () => {
    const lab = await chainLab();
    const compare: RebaseDeps['compare'] = () => Promise.resolve(false);
    const refused = await refusal(merge(lab, { deps: { compare } }));
    expect(refused).toMatchObject({ code: 'damaged' });
    expect(await filesIn(lab.folder('vda'))).toHaveLength(5);
    await merge(lab);
    await expectTrueCatalog(lab);
  });
});

suite('a hostile backup', () => {
  /** Each of these turns the INC into something that would make qemu-img open a file outside. */
  const HOSTILE: readonly [string, (folder: string, outside: string) => Promise<void>][] = [
    ['a backing link to a host file, as raw', (folder) => relink(folder, '/etc/passwd', 'raw')],
    ['a backing link to a host file, as qcow2', (folder) => relink(folder, '/etc/passwd', 'qcow2')],
    ['a json: backing link', (folder) => relink(folder, 'json:{"driver":"file","filename":"/etc/passwd"}', 'raw')],
    ['a link out of the folder', (folder) => relink(folder, '../vdb/FULL-100.qcow2', 'qcow2')],
    ['the right link of another format', (folder) => relink(folder, 'FULL-100.qcow2', 'raw')],
    ['no link', (folder) => relink(folder, undefined, undefined)],
    [
      'a data file outside',
      async (folder, outside) => {
        const path = join(folder, 'INC-101.qcow2');
        const options = `data_file=${outside}/data,data_file_raw=off`;
        await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path, String(16 * MiB)]);
        await relinkUnsafe(folder, 'FULL-100.qcow2', 'qcow2');
      },
    ],
    [
      'a symbolic link',
      async (folder, outside) => {
        const path = join(folder, 'INC-101.qcow2');
        await rename(path, join(outside, 'stolen.qcow2'));
        await symlink(join(outside, 'stolen.qcow2'), path);
      },
    ],
  ];

  async function relinkUnsafe(folder: string, link: string, format: string): Promise<void> {
    await run('qemu-img', ['rebase', '-u', '-F', format, '-b', link, join(folder, 'INC-101.qcow2')]);
  }

  async function relink(folder: string, link: string | undefined, format: string | undefined): Promise<void> {
    const backing = link === undefined ? [] : ['-b', link, '-F', format ?? ''];
    const path = join(folder, 'INC-101.qcow2');
    await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', ...backing, path, String(16 * MiB)]);
  }

  it.each(HOSTILE)('with %s is refused before any qemu-img runs', async (_name, harm) => {
    const lab = await makeLab();
    const entries = await makeDisk(lab, 'vda', CHAIN.slice(0, 2));
    await harm(lab.folder('vda'), lab.root);
    // The stranger also wrote the catalog, so that nothing looks altered.
    const inc = await describe(lab, 'vda', entries[1]!).catch(() => entries[1]!);
    await record(lab, pointsOf([entries[0]!, inc]));
    await expectNothingOpened(lab);
  });

  /** The Python tool sets no links, or absolute ones: only the last part of a path counts, and none is followed. */
  const HARMLESS = ['no link', 'a link out of the folder'];

  it.each(HOSTILE)('without a catalog, with %s, is refused or never followed', async (name, harm) => {
    const lab = await makeLab();
    await makeDisk(lab, 'vda', CHAIN.slice(0, 2));
    await harm(lab.folder('vda'), lab.root);
    if (!HARMLESS.includes(name)) return expectNothingOpened(lab);
    await merge(lab);
    expect(await filesIn(lab.folder('vda'))).toEqual(['FULL-100.qcow2']);
  });

  async function expectNothingOpened(lab: Lab): Promise<void> {
    const fake = await fakeQemuImg(lab);
    try {
      const refused = await refusal(merge(lab));
      expect(refused.message).toContain('INC-101.qcow2');
      expect(refused.code).toBe('unsafe');
      expect(await fake.calls()).toBe('');
    } finally {
      fake.restore();
    }
  }

  it('is known by what is not qcow2 at all', async () => {
    const lab = await makeLab();
    await makeDisk(lab, 'vda', CHAIN.slice(0, 2));
    await writeFile(join(lab.folder('vda'), 'INC-101.qcow2'), 'root:x:0:0');
    const fake = await fakeQemuImg(lab);
    try {
      expect(await refusal(merge(lab))).toMatchObject({ code: 'damaged' });
      expect(await fake.calls()).toBe('');
    } finally {
      fake.restore();
    }
  });
});

suite('a folder of the Python tool', () => {
  const PYTHON: readonly Step[] = CHAIN.map(({ file, on, ...rest }) => ({
    ...rest,
    file: pythonName(file),
    ...(on === undefined ? {} : { on: pythonName(on) }),
  }));

  function pythonName(file: string): string {
    return file.replace('.qcow2', '-disk 1.qcow2');
  }

  async function pythonLab(): Promise<Lab> {
    const lab = await makeLab();
    await makeDisk(lab, 'ide0-hd0', PYTHON);
    return lab;
  }

  it('whose increments have no links, or absolute ones of another place, is merged', async () => {
    const lab = await pythonLab();
    const folder = lab.folder('ide0-hd0');
    const unlink = ['rebase', '-u', '-b', ''];
    for (const { file } of PYTHON.slice(1, 4)) await run('qemu-img', [...unlink, join(folder, file)]);
    const last = join(folder, PYTHON[4]!.file);
    await run('qemu-img', ['rebase', '-u', '-F', 'qcow2', '-b', `/gone/${PYTHON[3]!.file}`, last]);
    // Times of files say nothing.
    await utimes(join(folder, PYTHON[1]!.file), 2_000_000_000, 2_000_000_000);

    expect(await merge(lab, { disk: 'ide0-hd0', until: PYTHON[2]!.file })).toMatchObject({
      full: 'FULL-100-disk 1.qcow2',
      head: 'INC-102-disk 1.qcow2',
      removed: ['INC-101-disk 1.qcow2', 'INC-102-disk 1.qcow2'],
    });
    expect(await filesIn(folder)).toEqual([PYTHON[0]!.file, PYTHON[3]!.file, PYTHON[4]!.file]);
    for (const { file } of PYTHON.slice(3)) await expectSame(join(folder, file), lab.flat('ide0-hd0', file));
    await merge(lab, { disk: 'ide0-hd0' });
    await expectSame(join(folder, PYTHON[0]!.file), lab.flat('ide0-hd0', PYTHON[4]!.file));
    expect(await filesIn(folder)).toEqual([PYTHON[0]!.file]);
    expect(await filesIn(lab.target)).toEqual(['ide0-hd0']);
  });

  it('keeps a note of an interrupted merge, which must be finished up to the same file', async () => {
    const lab = await pythonLab();
    const folder = lab.folder('ide0-hd0');
    const call = { disk: 'ide0-hd0', until: PYTHON[3]!.file };
    const commit = (): Promise<never> => Promise.reject(new Error('crash'));
    await expect(merge(lab, { ...call, deps: { commit } })).rejects.toThrow('crash');
    expect(await filesIn(folder)).toContain(REBASE_NOTE);
    expect(await refusal(merge(lab, { ...call, until: PYTHON[2]!.file }))).toMatchObject({ code: 'unsafe' });
    expect(await merge(lab, { disk: 'ide0-hd0' })).toMatchObject({ head: PYTHON[3]!.file, resumes: true });
    await expectSame(join(folder, PYTHON[0]!.file), lab.flat('ide0-hd0', PYTHON[3]!.file));
    await expectSame(join(folder, PYTHON[4]!.file), lab.flat('ide0-hd0', PYTHON[4]!.file));
  });

  it('whose note names files elsewhere is refused', async () => {
    const lab = await pythonLab();
    const note = { schema: 1, full: PYTHON[0]!.file, head: '../../etc/passwd', absorbed: [], phase: 'merged' };
    await writeFile(join(lab.folder('ide0-hd0'), REBASE_NOTE), JSON.stringify(note));
    expect(await refusal(merge(lab, { disk: 'ide0-hd0' }))).toMatchObject({ code: 'unsafe' });
  });

  it('of several disks needs a name', async () => {
    const lab = await pythonLab();
    const folder = lab.folder('ide0-hd0');
    await copyFile(join(folder, PYTHON[0]!.file), join(folder, 'FULL-100-other.qcow2'));
    expect(await refusal(merge(lab, { disk: 'ide0-hd0' }))).toMatchObject({ code: 'usage' });
    await merge(lab, { disk: 'ide0-hd0', until: PYTHON[1]!.file });
    await expectSame(join(folder, PYTHON[0]!.file), lab.flat('ide0-hd0', PYTHON[1]!.file));
  });
});
