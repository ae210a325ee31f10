import { chmod, open, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe as suite, expect, it } from 'vitest';
import { QmpBackupError } from '../../src/errors.js';
import { REBASE_NOTE } from '../../src/import/legacy-disk.js';
import { defaultRebaseDeps, rebase } from '../../src/operations/rebase/rebase.js';
import { defaultMergeDeps, merge, type MergeDeps, type MergeEvent } from '../../src/operations/restore/merge.js';
import { lockTarget } from '../../src/repository/lock.js';
import { MiB } from '../support/builders.js';
import {
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
  type Step,
} from '../support/chains.js';
import { run } from '../support/lab/programs.js';

const CHAIN: readonly Step[] = [
  { file: 'FULL-100.qcow2', io: ['write -P 1 0 6M'] },
  { file: 'INC-101.qcow2', on: 'FULL-100.qcow2', io: ['write -P 3 1M 1M', 'write -z 4M 1M'] },
  { file: 'INC-102.qcow2', on: 'INC-101.qcow2', size: 24, io: ['write -P 4 17M 2M'] },
];

async function chainLab(recorded = true): Promise<Lab> {
  const lab = await makeLab();
  const entries = await makeDisk(lab, 'vda', CHAIN);
  if (recorded) await record(lab, pointsOf(entries));
  return lab;
}

interface Call {
  readonly until?: string;
  readonly to?: string;
  readonly signal?: AbortSignal;
  readonly rateLimit?: number;
  readonly deps?: Partial<MergeDeps>;
  readonly events?: MergeEvent[];
}

function mergeInto(lab: Lab, call: Call = {}): ReturnType<typeof merge> {
  return merge(
    {
      dir: lab.folder('vda'),
      targetFile: join(lab.root, call.to ?? 'out/new.qcow2'),
      until: call.until,
      rateLimit: call.rateLimit,
      breakLock: false,
    },
    { signal: call.signal ?? new AbortController().signal, report: (event) => void call.events?.push(event) },
    { ...defaultMergeDeps, ...call.deps },
  );
}

suite('merge', () => {
  it('writes a standalone image of the newest state and touches nothing else', async () => {
    const lab = await chainLab();
    const before = await photograph(lab.target);
    const events: MergeEvent[] = [];
    const result = await mergeInto(lab, { events });
    expect(result).toEqual({
      targetFile: join(lab.root, 'out/new.qcow2'),
      files: ['FULL-100.qcow2', 'INC-101.qcow2', 'INC-102.qcow2'],
      virtualSize: 24 * MiB,
    });
    expect(await filesIn(join(lab.root, 'out'))).toEqual(['new.qcow2']);
    expect(await photograph(lab.target)).toEqual(before);
    await rm(lab.folder('vda'), { recursive: true });
    await expectSame(result.targetFile, lab.flat('vda', 'INC-102.qcow2'));
    expect(events.at(-1)).toEqual({ kind: 'progress', percent: 100 });
  });

  it('writes an older state, named with or without its extension', async () => {
    const lab = await chainLab();
    for (const [until, file] of [
      ['INC-101.qcow2', 'INC-101.qcow2'],
      ['FULL-100', 'FULL-100.qcow2'],
    ] as const) {
      const { targetFile } = await mergeInto(lab, { until, to: `${until}.new` });
      await expectSame(targetFile, lab.flat('vda', file));
    }
  });

  it('reads a folder of the Python tool, whose increments have no links', async () => {
    const lab = await chainLab(false);
    for (const { file } of CHAIN.slice(1)) {
      await run('qemu-img', ['rebase', '-u', '-b', '', join(lab.folder('vda'), file)]);
    }
    const before = await photograph(lab.target);
    const { targetFile } = await mergeInto(lab);
    await expectSame(targetFile, lab.flat('vda', 'INC-102.qcow2'));
    expect(await photograph(lab.target)).toEqual(before);
  });

  it('reads a folder that cannot be written, without a lock, and says so', async () => {
    const lab = await chainLab();
    await chmod(lab.target, 0o500);
    const events: MergeEvent[] = [];
    // Root may write anywhere: what the lock meets on a read-only mount is put in its place.
    const refuse = (): Promise<never> =>
      Promise.reject(
        new QmpBackupError('unsafe', 'cannot lock', { cause: Object.assign(new Error('EROFS'), { code: 'EROFS' }) }),
      );
    const { targetFile } = await mergeInto(lab, { events, deps: { lockTarget: refuse } });
    await expectSame(targetFile, lab.flat('vda', 'INC-102.qcow2'));
    expect(events[0]).toMatchObject({ kind: 'warning', text: expect.stringContaining('cannot be locked') as string });
    await chmod(lab.target, 0o700);
  });
});

suite('merge leaves nothing behind', () => {
  async function expectRefused(lab: Lab, call: Call, code: string, words: string): Promise<void> {
    const before = await photograph(lab.root);
    const refused = await refusal(mergeInto(lab, call));
    expect(refused.message).toContain(words);
    expect(refused.code).toBe(code);
    expect(await photograph(lab.root)).toEqual(before);
    expect(await filesIn(lab.root)).not.toContain('out');
  }

  it('where the image exists, or its partial image', async () => {
    const lab = await chainLab();
    await writeFile(join(lab.root, 'there'), 'precious');
    await expectRefused(lab, { to: 'there' }, 'unsafe', 'exists already');
    await writeFile(join(lab.root, 'other.partial'), 'precious');
    await expectRefused(lab, { to: 'other' }, 'unsafe', 'other.partial');
  });

  it('where a file is missing or altered', async () => {
    const lab = await chainLab();
    const path = join(lab.folder('vda'), 'INC-101.qcow2');
    const handle = await open(path, 'r+');
    await handle.write('x', (await handle.stat()).size - 1);
    await handle.close();
    await expectRefused(lab, {}, 'unsafe', 'INC-101.qcow2 cannot be used');
    await rm(path);
    await expectRefused(lab, {}, 'unsafe', 'INC-101.qcow2');
  });

  it('where qemu-img fails, is interrupted or the disk came out wrong', async () => {
    const lab = await chainLab();
    const convert: MergeDeps['convert'] = async (_view, target) => {
      await writeFile(target, 'half');
      throw new QmpBackupError('failed', 'qemu-img convert failed: No space left on device');
    };
    await expectRefused(lab, { deps: { convert } }, 'failed', 'No space left');
    const other: MergeDeps['convert'] = async (_view, target) => {
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', target, '1M']);
    };
    await expectRefused(lab, { deps: { convert: other } }, 'failed', 'came out as a disk of 1048576 bytes');
    const stop = new AbortController();
    const call = mergeInto(lab, { rateLimit: MiB, signal: stop.signal });
    setTimeout(() => stop.abort(new QmpBackupError('interrupted', 'stopped by hand')), 700);
    expect(await refusal(call)).toMatchObject({ code: 'interrupted' });
    expect(await filesIn(lab.root)).not.toContain('out');
  });

  it('while a rebase is running, and where one was interrupted', async () => {
    const lab = await chainLab();
    const lock = await lockTarget(lab.target, { breakLock: false, purpose: 'rebase' });
    await expectRefused(lab, {}, 'locked', 'locked by');
    await lock.release();
    const commit = (): Promise<never> => Promise.reject(new Error('crash'));
    const half = rebase(
      { dir: lab.folder('vda'), dryRun: false, skipCheck: true, breakLock: false },
      { signal: new AbortController().signal, report: () => undefined },
      { ...defaultRebaseDeps, commit },
    );
    await expect(half).rejects.toThrow('crash');
    await expectRefused(lab, {}, 'unsafe', 'a merge into FULL-100.qcow2 was interrupted');
  });

  it('where one was interrupted in a folder of the Python tool', async () => {
    const lab = await chainLab(false);
    const note = { schema: 1, full: 'FULL-100.qcow2', head: 'INC-101.qcow2', absorbed: [], phase: 'merging' };
    await writeFile(join(lab.folder('vda'), REBASE_NOTE), JSON.stringify(note));
    await expectRefused(lab, {}, 'unsafe', 'was interrupted');
  });

  it('where there is no such file', async () => {
    await expectRefused(await chainLab(), { until: 'INC-7' }, 'usage', 'INC-7');
    await expectRefused(await chainLab(false), { until: 'INC-7' }, 'usage', 'INC-7');
  });

  it('of a hostile backup, of which no qemu-img opens anything', async () => {
    const lab = await chainLab(false);
    const path = join(lab.folder('vda'), 'INC-102.qcow2');
    await run('qemu-img', ['create', '-q', '-u', '-f', 'qcow2', '-F', 'raw', '-b', '/etc/shadow', path, '24M']);
    const fake = await fakeQemuImg(lab);
    try {
      expect(await refusal(mergeInto(lab))).toMatchObject({ code: 'unsafe' });
      expect(await fake.calls()).toBe('');
    } finally {
      fake.restore();
    }
    const entries = await Promise.all(
      CHAIN.map(({ file, on, size = 16 }) =>
        describe(lab, 'vda', { file, parent: on ?? null, virtualSize: size * MiB }),
      ),
    );
    await record(lab, pointsOf(entries));
    await expectRefused(lab, {}, 'unsafe', 'INC-102.qcow2 cannot be used: its backing file is /etc/shadow');
  });
});
