import { link, mkdir, open, rename, rm, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe as suite, expect, it } from 'vitest';
import type { PointDisk } from '../../src/core/point.js';
import { type PointFinding, refuseFindings } from '../../src/core/point-findings.js';
import { requireCatalog } from '../../src/repository/catalog-file.js';
import { findDamage } from '../../src/repository/chain-check.js';
import { findDigestFault } from '../../src/repository/digest.js';
import { openEveryPoint, type OpenOptions, openPoint } from '../../src/repository/open-point.js';
import { catalog, MiB } from '../support/builders.js';
import { type Lab, makeDisk, makeLab, photograph, pointsOf, record, refusal, rot } from '../support/chains.js';
import { countedPoints } from '../support/counted-points.js';
import { run } from '../support/lab/programs.js';

/** Points of real images, each harmed in one way. */

const [FULL, INC, LAST] = ['FULL-100.qcow2', 'INC-101.qcow2', 'INC-102.qcow2'] as const;
const DEFINITION = { kind: 'domain' as const, file: 'DOMAIN-102.xml', path: null, size: 7, sha256: '0'.repeat(64) };

interface Chain {
  readonly lab: Lab;
  readonly entries: readonly PointDisk[];
  readonly path: (file: string) => string;
}

/** FULL, INC and INC of `vda`, and beside the last one a FULL of `vdb`. */
async function chain(): Promise<Chain> {
  const lab = await makeLab();
  const entries = await makeDisk(lab, 'vda', [
    { file: FULL, io: ['write -P 1 0 1M'] },
    { file: INC, on: FULL, io: ['write -P 2 1M 1M'] },
    { file: LAST, on: INC, io: ['write -P 3 2M 1M'] },
  ]);
  const [other] = await makeDisk(lab, 'vdb', [{ file: FULL, io: ['write -P 4 0 1M'] }]);
  const points = pointsOf(entries);
  const last = points[2]!;
  await record(lab, [...points.slice(0, 2), { ...last, disks: [...last.disks, other!] }]);
  return { lab, entries, path: (file) => join(lab.folder('vda'), file) };
}

/** Replaces what the catalog says of one file of `vda`. */
async function recorded({ lab }: Chain, file: string, more: Partial<PointDisk>): Promise<void> {
  const { points } = await requireCatalog(lab.target);
  const changed = points.map((point) => ({
    ...point,
    disks: point.disks.map((each) => (each.disk === 'vda' && each.file === file ? { ...each, ...more } : each)),
  }));
  await record(lab, changed);
}

/** Links as a stranger sets them, who also writes the catalog so that size and time fit. */
async function relinked(from: Chain, file: string, backing: readonly string[]): Promise<void> {
  await run('qemu-img', ['rebase', '-u', '-f', 'qcow2', ...backing, from.path(file)]);
  await retouched(from, file);
}

async function retouched(from: Chain, file: string): Promise<void> {
  const handle = await open(from.path(file), 'r');
  const { size, mtimeMs } = await handle.stat();
  await handle.close();
  await recorded(from, file, { size, mtimeMs });
}

async function found(target: string, options: OpenOptions = {}): Promise<readonly PointFinding[]> {
  return (await openPoint(target, {}, options)).findings;
}

const inShort = ({ level, subject, code, file }: PointFinding): string => [level, subject, code, file].join(' ');

suite('openPoint', () => {
  it('tells the files of each disk, with nothing to find, and changes nothing', async () => {
    const { lab, entries, path } = await chain();
    const before = await photograph(lab.target);
    const point = await openPoint(lab.target);
    expect(point).toMatchObject({ target: lab.target, name: 'point 2', findings: [], leftOut: [], absent: [] });
    const [vda, vdb] = point.disks;
    expect(vda).toMatchObject({ disk: 'vda', dir: lab.folder('vda'), entry: entries[2], findings: [] });
    expect(vda?.chain.map((each) => each.path)).toEqual([FULL, INC, LAST].map(path));
    expect(vda?.chain.map(({ entry }) => entry)).toEqual(entries);
    expect(vdb?.chain.map((each) => each.path)).toEqual([join(lab.folder('vdb'), FULL)]);
    refuseFindings(point.findings);
    expect(await photograph(lab.target)).toEqual(before);
  });

  it('takes a point by number, chain, id or file, and of it the disks that are asked for', async () => {
    const { lab } = await chain();
    const { id } = (await requireCatalog(lab.target)).points[1]!;
    for (const request of [{ point: '1' }, { point: 'c1:1' }, { point: id }, { until: 'INC-101' }]) {
      const { name, disks, absent } = await openPoint(lab.target, request);
      expect({ name, files: disks.map(({ chain: files }) => files.length), absent }).toEqual({
        name: 'point 1',
        files: [2],
        absent: [],
      });
    }
    const { disks, leftOut } = await openPoint(lab.target, { disks: ['vdb'] });
    expect(disks.map(({ disk }) => disk)).toEqual(['vdb']);
    expect(leftOut).toMatchObject([{ name: 'vda', kind: 'request' }]);
    expect(await refusal(openPoint(lab.target, { point: '7' }))).toMatchObject({ code: 'usage' });
    expect(await refusal(openPoint(lab.folder('vda')))).toMatchObject({ code: 'no-catalog' });
  });

  const HARMS: readonly [string, (from: Chain) => Promise<unknown>, string, RegExp][] = [
    ['a file that is gone', ({ path }) => rm(path(INC)), `missing ${INC}`, /it is missing/],
    [
      'a file that was cut',
      ({ path }) => truncate(path(INC), 4096),
      `other-size ${INC}`,
      /4096 bytes, the catalog says/,
    ],
    [
      'a folder that is gone',
      ({ lab }) => rm(lab.folder('vda'), { recursive: true }),
      `no-folder ${FULL}`,
      /its folder/,
    ],
    [
      'a folder that is a link',
      async ({ lab }) => {
        await rename(lab.folder('vda'), join(lab.root, 'away'));
        await symlink(join(lab.root, 'away'), lab.folder('vda'));
      },
      `no-folder ${FULL}`,
      /symbolic link/,
    ],
    [
      'a link in the place of a file',
      async ({ lab, path }) => {
        await link(path(INC), join(lab.root, 'away'));
        await rm(path(INC));
        await symlink(join(lab.root, 'away'), path(INC));
      },
      `not-a-file ${INC}`,
      /symbolic link/,
    ],
    [
      'what is no image',
      async (from) => {
        await writeFile(from.path(INC), 'x'.repeat(70_000));
        await retouched(from, INC);
      },
      `no-image ${INC}`,
      /not a qcow2 image/,
    ],
    [
      'a header that names a file of the host',
      (from) => relinked(from, LAST, ['-F', 'qcow2', '-b', '/etc/passwd']),
      `other-link ${LAST}`,
      /its backing file is \/etc\/passwd, the catalog says INC-101/,
    ],
    [
      'a header that skips a file',
      (from) => relinked(from, LAST, ['-F', 'qcow2', '-b', FULL]),
      `other-link ${LAST}`,
      /its backing file is FULL-100/,
    ],
    [
      'a parent to be read as raw',
      (from) => relinked(from, INC, ['-F', 'raw', '-b', FULL]),
      `other-link ${INC}`,
      /must be qcow2/,
    ],
    [
      'another disk size',
      (from) => recorded(from, FULL, { virtualSize: 8 * MiB }),
      `other-disk-size ${FULL}`,
      /a disk of 16777216 bytes, the catalog says 8388608/,
    ],
    [
      'a file that was written to',
      ({ path }) => run('qemu-io', ['-f', 'qcow2', '-c', 'write -P 9 2M 64k', path(LAST)]),
      `altered ${LAST}`,
      /it was modified after it was sealed/,
    ],
    [
      'a file that was touched, with no digest',
      async (from) => {
        await recorded(from, INC, { sha256: null, pieces: undefined });
        await utimes(from.path(INC), 1, 1);
      },
      `altered ${INC}`,
      /there is no digest/,
    ],
  ];

  it.each(HARMS)('finds %s, which is refused by name', async (_, harm, what, why) => {
    const from = await chain();
    await harm(from);
    const point = await openPoint(from.lab.target);
    expect(point.findings.map(inShort)).toEqual([`error vda ${what}`]);
    const [finding] = point.findings;
    expect(finding?.why).toMatch(why);
    expect(point.disks.map(({ findings }) => findings.length)).toEqual([1, 0]);
    const refused = await refusal(Promise.resolve().then(() => refuseFindings(point.findings)));
    expect(refused).toMatchObject({ code: 'unsafe', message: finding?.what, hint: finding?.todo });
    expect(refused.message).toBe(`${finding?.file} cannot be used: ${finding?.why}`);
    // The catalog alone does not tell, and the other disk is not concerned.
    expect(await found(from.lab.target, { look: 'catalog' })).toEqual([]);
    expect((await openPoint(from.lab.target, { disks: ['vdb'] })).findings).toEqual([]);
  });

  it('finds all that is wrong at once, and reads no file to its end when something is', async () => {
    const { lab, path } = await chain();
    await rm(path(FULL));
    await truncate(path(LAST), 4096);
    await utimes(path(INC), 1, 1);
    let hashed = 0;
    const findings = await found(lab.target, { onBytes: (count) => (hashed += count) });
    expect(findings.map(inShort)).toEqual([`error vda missing ${FULL}`, `error vda other-size ${LAST}`]);
    expect(hashed).toBe(0);
  });

  it('by a look alone finds what is gone or has another size, and no more', async () => {
    const from = await chain();
    const { lab, path } = from;
    await relinked(from, LAST, ['-F', 'qcow2', '-b', FULL]);
    await utimes(path(INC), 1, 1);
    expect(await found(lab.target, { look: 'stat' })).toEqual([]);
    await truncate(path(INC), 4096);
    await rm(path(FULL));
    const lost = [`error vda missing ${FULL}`, `error vda other-size ${INC}`];
    expect((await found(lab.target, { look: 'stat' })).map(inShort)).toEqual(lost);
    const all = await openEveryPoint(lab.target, await requireCatalog(lab.target));
    expect(all.map(({ findings }) => findings.map(inShort))).toEqual([lost.slice(0, 1), lost, lost]);
  });

  it('takes a touched file with the same bytes for the same', async () => {
    const { lab, path } = await chain();
    await utimes(path(INC), 1, 1);
    expect(await found(lab.target)).toEqual([]);
  });

  it('leaves bytes that storage lost to findDamage, which finds them', async () => {
    const { lab, path } = await chain();
    await rot(path(INC));
    const { findings, disks } = await openPoint(lab.target);
    expect(findings).toEqual([]);
    const vda = disks[0]!;
    const damage = await Promise.all(vda.chain.map(({ entry }) => findDamage(vda.dir, entry, {}, { findDigestFault })));
    expect(damage.flatMap((each) => (each ? [inShort(each)] : []))).toEqual([`error vda damaged ${INC}`]);
    const refused = await refusal(Promise.resolve().then(() => refuseFindings(damage.filter((each) => !!each))));
    expect(refused).toMatchObject({ code: 'damaged', message: expect.stringContaining(`${INC} is damaged`) as string });
  });

  it.each<[string, Partial<PointDisk>, string, string]>([
    ['a rebase that died', { state: 'merging' }, 'half-merged', 'vda: a merge into FULL-100.qcow2 was interrupted'],
    ['a file that the catalog lacks', { state: 'merged' }, 'gap', 'vda: FULL-100.qcow2 is missing'],
  ])('finds %s by the catalog, and is passed over where no point is named', async (_, more, code, why) => {
    const from = await chain();
    await recorded(from, FULL, more);
    const { findings } = await openPoint(from.lab.target, { point: '1' });
    expect(findings.map(inShort)).toEqual([`error vda ${code} ${FULL}`]);
    expect(findings[0]).toMatchObject({ what: `point 1 cannot be restored: ${why}` });
    const own = await openPoint(from.lab.target, { point: '0' });
    expect(own.findings.map(inShort)).toEqual([`error vda ${more.state} ${FULL}`]);
    expect(await refusal(openPoint(from.lab.target))).toMatchObject({ code: 'unsafe' });
    const all = await openEveryPoint(from.lab.target, await requireCatalog(from.lab.target));
    expect(all.map(({ findings: each }) => each.map((one) => one.code))).toEqual([[more.state], [code], [code]]);
  });

  it('looks at each file of a long chain as often as at one of a short chain, where all points are opened', async () => {
    const looksOf = async (count: number): Promise<number> => {
      const { target, folder } = await makeLab();
      const { points, looks } = countedPoints(count, { size: 0 });
      await mkdir(folder('a'), { recursive: true });
      for (const { file } of points.flatMap(({ disks }) => disks)) await writeFile(join(folder('a'), file), '');
      const all = await openEveryPoint(target, catalog(points));
      expect(all.at(-1)).toMatchObject({ findings: [], disks: [{ files: count }] });
      return looks();
    };
    expect(await looksOf(500)).toBeLessThan((await looksOf(50)) * 10.1);
  });

  it('warns of a suspect file, a lost definition and a journal that it cannot read, and refuses for none', async () => {
    const from = await chain();
    const { lab } = from;
    await recorded(from, INC, { suspect: 'imported' });
    const { points } = await requireCatalog(lab.target);
    const definition = { files: [DEFINITION], autostart: null, missing: [] };
    await record(lab, [...points.slice(0, 2), { ...points[2]!, definition }]);
    await writeFile(join(lab.target, 'run.json'), '{}');
    const findings = await found(lab.target);
    expect(findings.map(inShort)).toEqual([
      'warning target unreadable-journal ',
      `warning vda suspect ${INC}`,
      'warning definition no-folder DOMAIN-102.xml',
    ]);
    refuseFindings(findings);
  });

  it('tells of a run that died, and not of one that was sealed', async () => {
    const { lab } = await chain();
    const journal = {
      ...{ schema: 1, attempt: 'feedfacecafe', startedAt: '2026-01-01T00:00:00.000Z', what: 'backup', monitor: '' },
      ...{ vm: { uuid: null, name: null, label: null }, disks: [], madeFolders: [], freezes: null, stops: false },
      ...{ scratch: [], servesNbd: false },
    };
    await writeFile(join(lab.target, 'run.json'), JSON.stringify(journal));
    expect((await found(lab.target)).map(inShort)).toEqual(['info target unsealed-run ']);
    const { id } = (await requireCatalog(lab.target)).points[2]!;
    await writeFile(join(lab.target, 'run.json'), JSON.stringify({ ...journal, attempt: id }));
    expect(await found(lab.target)).toEqual([]);
  });
});
