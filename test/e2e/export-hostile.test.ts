import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { TAR_END, tarHeader, tarPadding } from '../../src/archive/tar-headers.js';
import { TarReader } from '../../src/archive/tar-reader.js';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { expectCli, qmpbackup } from '../support/cli.js';
import { write } from '../support/lab/guest-writes.js';
import { patient } from '../support/patience.js';
import { labDir, scenario } from '../support/scenario.js';

/** Archives that somebody has made who knows the format, with a seal that is right: what they say is not done. */
beforeAll(ensureBuilt, patient(180_000));

interface Member {
  readonly path: string;
  readonly bytes: Buffer;
  /** In place of the length of the bytes. */
  readonly size?: number;
  readonly type?: string;
  readonly target?: string;
}

interface Manifest {
  order: string[];
  catalog: { points: { id: string; number: number; disks: Record<string, unknown>[] }[] } & Record<string, unknown>;
}

async function membersOf(archive: string): Promise<readonly Member[]> {
  const whole = await readFile(archive);
  const reader = new TarReader(
    (async function* () {
      yield await Promise.resolve(whole);
    })(),
  );
  const members: Member[] = [];
  for (let member = await reader.next(); member; member = await reader.next()) {
    const parts: Buffer[] = [];
    for await (const part of member.body()) parts.push(Buffer.from(part));
    members.push({ path: member.path, bytes: Buffer.concat(parts) });
  }
  return members;
}

function bytesOf({ path, bytes, size = bytes.length, type = '0', target = '' }: Member): Buffer {
  const header = tarHeader({ path, mode: 0o600, uid: 0, gid: 0, mtime: 0, size, type, target });
  return Buffer.concat([header, bytes, tarPadding(bytes.length)]);
}

/** With a right seal in the place of the last member. */
function sealed(members: readonly Member[]): Buffer {
  const before = Buffer.concat(members.slice(0, -1).map(bytesOf));
  const sha256 = createHash('sha256').update(before).digest('hex');
  const seal = bytesOf({ path: 'seal.json', bytes: Buffer.from(JSON.stringify({ sha256 })) });
  return Buffer.concat([before, seal, TAR_END]);
}

type Hostile = (members: readonly Member[]) => readonly Member[];

/** A manifest that says something else, with members as it says them. */
const saying =
  (change: (manifest: Manifest, disk: Record<string, unknown>) => void): Hostile =>
  ([first, ...others]) => {
    const manifest = JSON.parse(String(first?.bytes)) as Manifest;
    const [point] = manifest.catalog.points;
    const [disk = {}] = point?.disks ?? [];
    change(manifest, disk);
    const files = others.map((each, index) =>
      index === 0 ? { ...each, path: `${String(disk.disk)}/${String(disk.file)}` } : each,
    );
    return [{ path: 'export.json', bytes: Buffer.from(JSON.stringify(manifest)) }, ...files];
  };
const named = (disk: string, file: string): Hostile => saying((_, each) => Object.assign(each, { disk, file }));
const first =
  (change: Partial<Member>): Hostile =>
  ([manifest, image, ...rest]) => [manifest!, { ...image!, ...change }, ...rest];

const HOSTILE: readonly (readonly [string, Hostile])[] = [
  ...['..', '.', '', '../out', '/tmp/out', 'a/b', '.lock', 'd\n1', 'd\0', 'x'.repeat(300)].map(
    (disk) => [`the disk ${JSON.stringify(disk.slice(0, 20))}`, named(disk, 'FULL-1.qcow2')] as const,
  ),
  ...['..', '', '../catalog.json', '/tmp/out', 'a/b', 'FULL\0', 'x'.repeat(300)].map(
    (file) => [`the file ${JSON.stringify(file.slice(0, 20))}`, named('d1', file)] as const,
  ),
  ...[-1, 0.5, 2 ** 53, 1e300, null].map(
    (size) => [`a size of ${size}`, saying((_, disk) => Object.assign(disk, { size }))] as const,
  ),
  ['a member of another name', first({ path: '../../out' })],
  ['a link', first({ type: '2', target: '/etc/passwd', bytes: Buffer.alloc(0) })],
  ['a hard link', first({ type: '1', target: '/etc/passwd', bytes: Buffer.alloc(0) })],
  ['a device', first({ type: '4', bytes: Buffer.alloc(0) })],
  ['a folder', first({ type: '5', bytes: Buffer.alloc(0) })],
  ['a member that says it is larger', first({ size: 2 ** 50 })],
  ['a file twice', ([manifest, image, ...rest]) => [manifest!, image!, image!, ...rest]],
  [
    'the same file in two points',
    saying(({ catalog, order }) => {
      const [point] = catalog.points;
      catalog.points.push({ ...point!, id: 'abcdefabcdef', number: 1 });
      order.push('abcdefabcdef');
    }),
  ],
  ['a catalog that is too long', ([manifest, ...rest]) => [{ ...manifest!, size: 2 ** 40 }, ...rest]],
  ['an image that names another', first({ bytes: Buffer.from(`QFI\xfb${'\0'.repeat(100)}`, 'latin1') })],
];

it(
  'nothing of a hostile archive is taken in, and nothing is made beside it',
  async () => {
    const lab = await scenario([{ id: 'd1', size: MiB }]);
    await write(lab.vm, 'd1', { offset: 0, length: 300_000, pattern: 1 });
    await lab.backup('full');
    const root = await labDir();
    const [archive, folder] = [join(root, 'all.tar'), join(root, 'below')];
    await expectCli(0, ['export', '--target', lab.target, '--output', archive]);
    const members = await membersOf(archive);
    await mkdir(folder);
    const bad = join(root, 'bad.tar');
    const copy = join(folder, 'copy');
    for (const [name, change] of HOSTILE) {
      await writeFile(bad, sealed(change(members)));
      const { exitCode, stderr } = await qmpbackup(['import', '--from', 'export', bad, '--target', copy]);
      expect([4, 13], `${name}: ${exitCode} ${stderr}`).toContain(exitCode);
      expect(await readdir(folder), name).toEqual([]);
      expect((await readdir(root)).toSorted(), name).toEqual(['all.tar', 'bad.tar', 'below']);
    }
    // Made in the same way, and saying what is true, it goes in.
    await writeFile(bad, sealed(saying(() => undefined)(members)));
    await expectCli(0, ['import', '--from', 'export', bad, '--target', copy]);
  },
  patient(240_000),
);
