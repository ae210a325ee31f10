import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PointDisk } from '../../src/core/point.js';
import { QmpBackupError } from '../../src/errors.js';
import { filesGet } from '../../src/operations/files/get.js';
import { mount } from '../../src/operations/mount/mount.js';
import { restore } from '../../src/operations/restore/restore.js';
import { serve } from '../../src/operations/serve/serve.js';
import { readCatalog } from '../../src/repository/catalog-file.js';
import { MiB, point } from '../support/builders.js';
import { copyLab, expectSame, type Lab, labIn, makeDisk, record, withPieceList } from '../support/chains.js';
import { type CliResult, PROGRAM, qmpbackup } from '../support/cli.js';
import { DAMAGES, FULL, INC, LAST, OLD, XML } from '../support/damages.js';
import { run } from '../support/lab/programs.js';

/** Each kind of damage is found and named, and costs nobody a wrong byte. */

interface Answer {
  readonly targets: readonly {
    readonly findings: readonly {
      readonly level: string;
      readonly subject: string;
      readonly code: string;
      readonly file: string | null;
      readonly what: string;
    }[];
    readonly lost: readonly string[];
    readonly read: { readonly files: number };
  }[];
}

/** On the file system that the newest chain of vda has. */
const FILE = 'file.bin';

let whole: Lab;
/** The files of each point, by its name. */
let points: ReadonlyMap<string, readonly PointDisk[]>;

beforeAll(async () => {
  whole = labIn(await mkdtemp(join(tmpdir(), 'qmpchain-')));
  const writes = (pattern: number, at: number): string[] => [`write -P ${pattern} ${at}M 6M`];
  const [folder, image] = [join(whole.root, 'files'), join(whole.root, 'ext2.raw')];
  await mkdir(folder);
  await writeFile(join(folder, FILE), randomBytes(2 * MiB));
  await run('mke2fs', ['-q', '-F', '-t', 'ext2', '-d', folder, image, '6M']);
  const vda = await makeDisk(whole, 'vda', [
    { file: OLD, io: writes(9, 0) },
    { file: FULL, io: [`write -s ${image} 0 6M`] },
    { file: INC, on: FULL, io: writes(2, 8) },
    { file: LAST, on: INC, io: ['write -P 3 10M 1M'] },
  ]);
  const vdb = await makeDisk(whole, 'vdb', [
    { file: FULL, io: writes(4, 0) },
    { file: INC, on: FULL, io: ['write -P 5 1M 1M'] },
  ]);
  const [old, full, inc, last] = await Promise.all(vda.map((each) => withPieceList(whole, each)));
  const [other, more] = await Promise.all(vdb.map((each) => withPieceList(whole, each)));
  const xml = '<domain/>';
  await mkdir(whole.folder('definition'));
  await writeFile(join(whole.folder('definition'), XML), xml);
  const sha256 = createHash('sha256').update(xml).digest('hex');
  const definition = {
    files: [{ kind: 'domain' as const, file: XML, path: null, size: xml.length, sha256 }],
    autostart: null,
    missing: [],
  };
  const made = [
    point(0, [old!], { id: 'older', chain: 'c0' }),
    point(0, [full!, other!]),
    point(1, [inc!, more!], { level: 'inc' }),
    point(2, [last!], { level: 'inc', definition }),
  ];
  await record(whole, made);
  points = new Map(made.map((each) => [`${each.chain}:${each.number}`, each.disks]));
});

afterAll(() => whole.remove());

/** As root, or as a user to whom the target belongs and who is not. */
async function verify(lab: Lab, asNobody: boolean, ...more: string[]): Promise<CliResult> {
  const args = ['--json', 'verify', '--target', lab.target, ...more];
  if (!asNobody || process.getuid?.() !== 0) return qmpbackup(args);
  await run('chown', ['-R', 'nobody', lab.root]);
  const asUser = ['--reuid=nobody', '--clear-groups', process.execPath, PROGRAM, ...args];
  const { stdout, stderr, exitCode } = await run('setpriv', asUser, { allowed: [0, 4] });
  return { stdout, stderr, exitCode, json: <T>() => JSON.parse(stdout) as T };
}

/** Which points can be restored; throws where one is that is not what was backed up. */
async function restorable(lab: Lab): Promise<readonly string[]> {
  const right: string[] = [];
  for (const [name, entries] of points) {
    const output = join(lab.root, 'restored');
    try {
      await restore({ target: lab.target, output, point: name });
      for (const { disk, file } of entries) await expectSame(join(output, `${disk}.qcow2`), lab.flat(disk, file));
      right.push(name);
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
    }
    await rm(output, { recursive: true, force: true });
  }
  return right;
}

/**
 * Throws where somebody reads other bytes of the newest point than were backed up, and is not told. Which verbs ended well.
 */
async function readers(lab: Lab): Promise<readonly string[]> {
  const ended: string[] = [];
  const copy = join(lab.root, 'read');
  const asked = { target: lab.target, point: 'c1:2' };
  const flat = lab.flat('vda', LAST);
  const expectRead = async (verb: string, right: string, read: () => Promise<unknown>) => {
    await rm(copy, { recursive: true, force: true });
    try {
      await read();
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      return;
    }
    await run('cmp', [right, copy]);
    ended.push(verb);
  };
  await expectRead('serve', flat, () =>
    whileOpen((signal, isOpen) =>
      serve(asked, {
        signal,
        report: (event) => {
          if (event.kind === 'serving') isOpen(run('nbdcopy', [event.serving.disks[0]!.uri, copy]));
        },
      }),
    ),
  );
  await expectRead('mount', flat, () =>
    whileOpen((signal, isOpen) =>
      mount(
        { ...asked, mountpoint: join(lab.root, 'mnt') },
        {
          signal,
          report: (event) => {
            if (event.kind === 'mounted') isOpen(run('cp', [event.mounted.disks[0]!.path, copy]));
          },
        },
      ),
    ),
  );
  const output = join(lab.root, 'got');
  await expectRead('files', join(lab.root, 'files', FILE), async () => {
    await rm(output, { recursive: true, force: true });
    await filesGet({ ...asked, output, paths: [`/${FILE}`] });
    await rename(join(output, FILE), copy);
  });
  return ended;
}

/** Ends it when what is to be done while it is open has been done. What cannot be read then is an error for whoever reads. */
async function whileOpen<T>(
  open: (signal: AbortSignal, isOpen: (reading: Promise<unknown>) => void) => Promise<T>,
): Promise<void> {
  const ending = new AbortController();
  let reading: Promise<unknown> = Promise.resolve();
  await open(ending.signal, (begun) => {
    reading = begun.catch((error: unknown) => new QmpBackupError('failed', 'it could not be read', { cause: error }));
    void reading.then(() => ending.abort());
  });
  const failed = await reading;
  if (failed instanceof QmpBackupError) throw failed;
}

/** Paths of all files of the target, relative to it. */
async function filesOf({ target }: Lab): Promise<readonly string[]> {
  const entries = await readdir(target, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => join(parentPath, name).slice(target.length + 1));
}

/** Names of files that are neither in their places nor in a folder of strays. */
async function gone(lab: Lab, before: readonly string[]): Promise<readonly string[]> {
  const after = (await filesOf(lab)).map((path) => path.replace(/^stray-[^/]+\//, ''));
  return before.filter((path) => !after.includes(path)).map((path) => path.split('/').at(-1) ?? '');
}

/** `point 2` is `c1:2`, as in `--point`. */
function asNamed(lost: readonly string[]): readonly string[] {
  return lost.map((name) => name.replace(/^point (\d+)$/, 'c1:$1').replace(/^point /, ''));
}

const inShort = ({ level, subject, code, file }: Answer['targets'][number]['findings'][number]): string =>
  [level, subject, code, file].join(' ');

describe('verify --read-data, and then --repair', () => {
  it('finds nothing where nothing is wrong, has read all, and every point is right', async () => {
    const lab = await copyLab(whole);
    const { exitCode, stdout } = await verify(lab, false, '--read-data');
    const [target] = (JSON.parse(stdout) as Answer).targets;
    expect({ exitCode, ...target }).toMatchObject({ exitCode: 0, findings: [], lost: [], read: { files: 6 } });
    expect(await restorable(lab)).toEqual([...points.keys()]);
    expect(await readers(lab)).toEqual(['serve', 'mount', 'files']);
  });

  it('knows at least 30 kinds of damage', () => {
    expect(Object.keys(DAMAGES).length).toBeGreaterThanOrEqual(30);
  });

  it.each(Object.entries(DAMAGES))('finds %s', async (_, { harm, found, exit, mended = false, asNobody = false }) => {
    const lab = await copyLab(whole);
    await harm(lab);
    const { exitCode, stdout, stderr } = await verify(lab, asNobody, '--read-data');
    const [target] = (JSON.parse(stdout) as Answer).targets;
    const findings = target?.findings.map(inShort);
    expect({ findings, exitCode }, stderr + stdout).toEqual({
      findings: expect.arrayContaining([found]) as string[],
      exitCode: exit,
    });
    // Whatever can be wrong has its own code; nothing else is called damaged beside it.
    for (const { file, what } of target?.findings ?? []) expect(what).toContain(file ?? '');
    await readers(lab);
    const right = await restorable(lab);
    const before = await readCatalog(lab.target).catch(() => undefined);
    const files = await filesOf(lab);
    const repaired = await verify(lab, asNobody, '--read-data', '--repair');
    expect(repaired.exitCode, repaired.stdout).toBe(mended ? 0 : exit);
    expect(await gone(lab, files)).toEqual(found.includes('left-over') ? [found.split(' ').at(-1)] : []);
    const after = await restorable(lab);
    expect(after).toEqual(mended ? [...points.keys()] : right);
    if (asNobody || !before || found.includes('other-catalog')) return;
    const named = new Set(before.points.map(({ chain, number }) => `${chain}:${number}`));
    expect([...points.keys()].filter((name) => named.has(name) && !right.includes(name))).toEqual(
      asNamed(target?.lost ?? []),
    );
  });
});
