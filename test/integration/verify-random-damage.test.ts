import {
  cp,
  link,
  lstat,
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { QmpBackupError } from '../../src/errors.js';
import { restore } from '../../src/operations/restore/restore.js';
import type { VerifyRequest } from '../../src/operations/verify/options.js';
import type { VerifiedTarget } from '../../src/operations/verify/request.js';
import { verify } from '../../src/operations/verify/verify.js';
import { digestByPieces } from '../../src/repository/digest.js';
import { replacePieceList } from '../../src/repository/piece-list.js';
import { type Lab, makeDisk, makeLab, pointsOf, record } from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { IS_LONG } from '../support/moments.js';
import { patient } from '../support/patience.js';

/**
 * Whatever happens to whichever files of a target: `restore` writes what the disk held or refuses, `verify --read-data` finds what
 * makes it refuse and names the points that are lost, and `--repair` makes no point worse. What fails is told with its seed and the
 * least damage that does it; other seeds are for a person with time: change SEED and RUNS.
 */
const SEED = 20_261_129;
const RUNS = IS_LONG ? 25 : 12;
const FILES = ['FULL-100.qcow2', 'INC-101.qcow2', 'INC-102.qcow2'] as const;
const DISKS = ['vda', 'vdb'] as const;

const KINDS = [
  'flip',
  'zero',
  'cut',
  'empty',
  'append',
  'garbage',
  'swap',
  'delete',
  'move',
  'copy',
  'link',
  'hard link',
  'pipe',
  'device',
  'folder',
] as const;
const GARBAGE = [
  '{}',
  '[]',
  'null',
  '{"schema":1}',
  '{"schema":99}',
  '\0',
  '{"__proto__":1}',
  '{"schema":1,"points":[]}',
];
const OTHER_NAMES = [
  'FULL-100.qcow2',
  'INC-150.qcow2',
  'INC-102.qcow2.partial',
  'catalog-copy-2.json',
  'run.json',
  'open-0123456789abcdef.json',
  'x',
  'INC-102.qcow2.pieces',
];

const part = fc.integer({ min: 0, max: 9999 }).map((tenThousandths) => tenThousandths / 10_000);

const damages = fc.array(
  fc.record({
    kind: fc.constantFrom(...KINDS),
    /** Which file, where in it, and which other file or name: parts of what there is. */
    file: part,
    at: part,
    other: part,
    /** As faulty storage does it. */
    keepsTime: fc.boolean(),
  }),
  { minLength: 1, maxLength: 2 },
);

type Damage = (typeof damages extends fc.Arbitrary<infer Value> ? Value : never)[number];

it('is found, told, and never made worse', { timeout: patient(240_000) }, async () => {
  const lab = await chains();
  const pristine = join(lab.root, 'pristine');
  await cp(lab.target, pristine, { recursive: true, preserveTimestamps: true });
  const property = fc.asyncProperty(damages, async (done) => {
    await rm(lab.target, { recursive: true, force: true });
    await cp(pristine, lab.target, { recursive: true, preserveTimestamps: true });
    for (const damage of done) await doDamage(lab, damage);

    const found = await look(lab, { readData: true });
    const before = await restoredOf(lab);
    const lost = before.filter((outcome) => outcome !== 'right');
    if (found && lost.length > 0) expect(errorsOf(found), lost.join()).not.toEqual([]);
    if (found?.points === FILES.length) expect(found.lost, before.join()).toHaveLength(lost.length);

    await look(lab, { repair: true });
    const after = await restoredOf(lab);
    for (const [point, outcome] of before.entries()) if (outcome === 'right') expect(after[point]).toBe('right');
  });
  await fc.assert(property, { seed: SEED, numRuns: RUNS, endOnFailure: false });
});

/** FULL and two increments of two disks, with a copy of the catalog of before, lists of pieces, and what verify remembers. */
async function chains(): Promise<Lab> {
  const lab = await makeLab();
  const [full, first, second] = FILES;
  const steps = (pattern: number) => [
    { file: full, io: [`write -P ${pattern} 0 6M`] },
    { file: first, on: full, io: ['write -P 2 1M 1M'] },
    { file: second, on: first, io: ['write -P 3 2M 5M'] },
  ];
  const points = pointsOf(await makeDisk(lab, 'vda', steps(1)), await makeDisk(lab, 'vdb', steps(9)));
  await record(lab, points.slice(0, 2));
  await record(lab, points);
  for (const path of DISKS.map((disk) => join(lab.folder(disk), second))) {
    await replacePieceList(path, await digestByPieces(path, 'gmac'));
  }
  await verify({ target: lab.target, readData: true });
  return lab;
}

/** Undefined where it refuses the target as a whole. What is no error of ours fails the test. */
async function look({ target }: Lab, request: Partial<VerifyRequest>): Promise<VerifiedTarget | undefined> {
  try {
    return (await verify({ target, ...request })).targets[0];
  } catch (error) {
    if (error instanceof QmpBackupError) return undefined;
    throw error;
  }
}

function errorsOf({ findings }: VerifiedTarget): readonly string[] {
  return findings.filter(({ level }) => level === 'error').map(({ code }) => code);
}

/** What comes of each point: `right`, or why it was refused. */
async function restoredOf(lab: Lab): Promise<readonly string[]> {
  const outcomes: string[] = [];
  for (const [point, file] of FILES.entries()) {
    const output = join(lab.root, 'out');
    try {
      await restore({ target: lab.target, output, point: String(point), format: 'raw', verify: false });
      for (const disk of DISKS) await run('cmp', [join(output, `${disk}.raw`), lab.flat(disk, file)]);
      outcomes.push('right');
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      outcomes.push(error.message);
    }
    await rm(output, { recursive: true, force: true });
  }
  return outcomes;
}

async function doDamage({ target, root }: Lab, damage: Damage): Promise<void> {
  const all = (await readdir(target, { recursive: true })).toSorted();
  const [path, other] = [join(target, pick(all, damage.file)), join(target, pick(all, damage.other))];
  const away = join(root, `away-${Math.random()}`);
  switch (damage.kind) {
    case 'delete':
      return rm(path, { recursive: true });
    case 'move':
      return rename(path, `${path}${pick(['.old', '.partial', '.tmp', '2', '.qcow2'], damage.other)}`);
    case 'copy':
      return cp(path, join(target, pick([...DISKS, '.'], damage.at), pick(OTHER_NAMES, damage.other)), {
        recursive: true,
      }).catch(ofPlace);
    case 'link':
      await rename(path, away);
      return symlink(away, path);
    case 'hard link':
      return link(path, `${path}.link`).catch(ofPlace);
    case 'pipe':
    case 'device':
      await rename(path, away);
      await run('mknod', damage.kind === 'pipe' ? [path, 'p'] : [path, 'c', '1', '3']);
      return;
    case 'folder':
      await rename(path, away);
      return mkdir(path);
    case 'swap':
      await rename(path, away);
      await rename(other, path).catch(ofPlace);
      return rename(away, other).catch(ofPlace);
    default:
      return doDamageIn(path, damage);
  }
}

/** Two places of which one is in the other, or one is gone. */
function ofPlace(error: unknown): void {
  if (!(error instanceof Error && 'code' in error)) throw error;
}

async function doDamageIn(path: string, { kind, at, other, keepsTime }: Damage): Promise<void> {
  const { size, atimeMs, mtimeMs, isFile } = await statOf(path);
  if (!isFile) return;
  if (kind === 'cut') await truncate(path, Math.floor(at * size));
  else if (kind === 'empty') await truncate(path, 0);
  else if (kind === 'garbage') await writeFile(path, pick(GARBAGE, at));
  else if (kind === 'append') await writeFile(path, Buffer.alloc(1 + Math.floor(at * 70_000), 7), { flag: 'a' });
  else {
    const bytes = await readFile(path);
    // As often in the header as anywhere.
    const where = Math.floor(at * (other < 0.5 ? Math.min(400, size) : size));
    if (kind === 'zero') bytes.fill(0, where, Math.min(where + 512, size));
    else if (size > 0) bytes[where] = (bytes[where] ?? 0) ^ (1 << Math.floor(other * 8));
    await writeFile(path, bytes);
  }
  if (keepsTime) await utimes(path, atimeMs / 1000, mtimeMs / 1000);
}

async function statOf(path: string) {
  const stats = await lstat(path);
  return { size: stats.size, atimeMs: stats.atimeMs, mtimeMs: stats.mtimeMs, isFile: stats.isFile() };
}

function pick<T>(values: readonly T[], part: number): T {
  const value = values[Math.floor(part * values.length)];
  if (value === undefined) throw new Error('there is nothing to pick from');
  return value;
}
