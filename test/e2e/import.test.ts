import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { expectSame, filesIn, photograph } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { scratchFolders } from '../support/scratch-folder.js';
import { BackedUpDisk, type DiskOptions } from '../support/virtnbdbackup-folder.js';

/** Backups of virtnbdbackup become chains here: every point restores to the bytes that the disk had. */
beforeAll(ensureBuilt, 180_000);
const scratch = scratchFolders();

const [C0, C1, C2, C3] = [0, 1, 2, 3].map((number) => `virtnbdbackup.${number}`) as [string, string, string, string];

/** FULL and three INC with all that a guest does; the flat copies in the order of the points. */
async function evolve(root: string, disk: string, options: DiskOptions = {}, year = 2024): Promise<string[]> {
  const made = await new BackedUpDisk(root, disk, options).create();
  await made.change(
    { what: 0x11, offset: 0, length: 6 * MiB },
    { what: 0x12, offset: made.size - 200_000, length: 200_000 },
  );
  const flat = [await made.full(C0, `${year}-11-20T10:00:00.1`)];
  // Not whole clusters, over the old and the unwritten; one zeroed within a cluster, some discarded.
  await made.change(
    { what: 0x21, offset: 1000, length: 5000 },
    { what: 0x22, offset: 6 * MiB - 512, length: 70_000 },
    { what: 'zero', offset: MiB + 512, length: 4096 },
    { what: 'zero', offset: 2 * MiB, length: MiB },
    { what: 'discard', offset: 4 * MiB, length: MiB },
  );
  flat.push(await made.inc(C1, C0, `${year}-11-21T10:00:00.1`));
  await made.change(
    { what: 0x31, offset: 2 * MiB + 65_536, length: 65_536 },
    { what: 'discard', offset: 0, length: 65_536 },
  );
  flat.push(await made.inc(C2, C1, `${year}-11-22T10:00:00.1`));
  await made.change(
    { what: 'zero', offset: 5 * MiB, length: 512 },
    { what: 0x41, offset: made.size - 512, length: 512 },
  );
  flat.push(await made.inc(C3, C2, `${year}-11-23T10:00:00.1`));
  return flat;
}

const importing = (root: string, ...more: readonly string[]): string[] => [
  'import',
  ...['--from', 'virtnbdbackup', join(root, 'streams'), '--target', join(root, 'target'), ...more],
];

interface Imported {
  readonly points: readonly {
    readonly number: number;
    readonly level: string;
    readonly checkpoint: string | null;
    readonly disks: readonly { readonly disk: string; readonly file: string; readonly suspect: string | null }[];
  }[];
  readonly vm: { readonly name: string | null; readonly uuid: string | null };
}

async function expectRestores(root: string, disk: string, point: string, flat: string): Promise<void> {
  const output = join(root, `restored-${point}-${disk}`);
  await expectCli(0, [
    'restore',
    '--target',
    join(root, 'target'),
    '--output',
    output,
    '--point',
    point,
    '--disk',
    disk,
  ]);
  await expectSame(join(output, `${disk}.qcow2`), flat);
}

describe('a chain of virtnbdbackup', () => {
  it('restores to the bytes of every point, plain and lz4, two disks side by side', async () => {
    const root = await scratch();
    const flat = {
      vda: await evolve(root, 'vda'),
      vdb: await evolve(root, 'vdb', { lz4: true, size: 16 * MiB + 512 }),
    };
    const before = await photograph(join(root, 'streams'));

    const result = (await expectCli(0, [...importing(root), '--json'])).json<Imported>();

    expect(result.points.map(({ level, number, checkpoint }) => [level, number, checkpoint])).toEqual([
      ['full', 0, C0],
      ['inc', 1, C1],
      ['inc', 2, C2],
      ['inc', 3, C3],
    ]);
    for (const disk of ['vda', 'vdb'] as const) {
      for (const [number, raw] of flat[disk].entries()) await expectRestores(root, disk, String(number), raw);
    }
    expect(await photograph(join(root, 'streams'))).toEqual(before);
    expect(await filesIn(join(root, 'target'))).toEqual(['catalog.json', 'vda', 'vdb']);
  });
});
