import { readdir, readFile, rename, rm, symlink, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { expectSame, filesIn, photograph } from '../support/chains.js';
import { expectCli, startCli } from '../support/cli.js';
import { patient } from '../support/patience.js';
import { type BackupAnswer, scenario } from '../support/scenario.js';
import { scratchFolders } from '../support/scratch-folder.js';
import { imagesIn } from '../support/target-files.js';
import { BackedUpDisk, type DiskOptions } from '../support/virtnbdbackup-folder.js';

/** Backups of virtnbdbackup become chains here: every point restores to the bytes that the disk had. */
beforeAll(ensureBuilt, patient(180_000));
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
    expect(await filesIn(join(root, 'target'))).toEqual(['catalog-copy-1.json', 'catalog.json', 'vda', 'vdb']);
  });
});

describe('what is imported', () => {
  it('is listed, merged and rebased as any chain, and a backup of the VM goes on from there by comparison', async () => {
    const vm = await scenario([{ id: 'vda', via: 'drive', size: 16 * MiB }]);
    const root = await scratch();
    const flat = await evolve(root, 'vda');
    const uuid = 'c7a5fdbd-cdaf-9455-926a-d65c16db1809';
    const xml = (of: string): string =>
      `<domain type='kvm'>\n  <name>${of}</name>\n  <uuid>${uuid}</uuid>\n</domain>\n`;
    await writeFile(join(root, 'streams', 'vmconfig.virtnbdbackup.0.xml'), xml('vm1'));
    const target = join(root, 'target');
    const { vm: identity, points } = (await expectCli(0, [...importing(root), '--json'])).json<Imported>();
    expect(identity).toMatchObject({ name: 'vm1', uuid });

    const listed = (await expectCli(0, ['list', '--target', target])).stdout;
    expect(listed).toContain('VM vm1, 4 points');
    const merged = join(root, 'merged.qcow2');
    await expectCli(0, [
      'merge',
      '--dir',
      join(target, 'vda'),
      '--targetfile',
      merged,
      '--until',
      points[2]!.disks[0]!.file,
    ]);
    await expectSame(merged, flat[2]!);

    const until = points[1]!.disks[0]!.file;
    await expectCli(0, ['rebase', '--dir', join(target, 'vda'), '--until', until]);
    for (const number of [1, 2, 3]) await expectRestores(root, 'vda', String(number), flat[number]!);

    // This VM has neither name nor UUID: it must say that it is the one.
    const backup = ['--socket', vm.vm.socket, 'backup', '--target', target];
    await expectCli(13, [...backup, '--level', 'auto']);
    const made = (
      await expectCli(0, [...backup, '--level', 'auto', '--vm-name', 'vm1', '--json'])
    ).json<BackupAnswer>();
    expect(made.point).toMatchObject({ level: 'inc', number: 4, disks: [{ disk: 'vda', level: 'inc' }] });
    const next = (await expectCli(0, [...backup, '--level', 'inc', '--vm-name', 'vm1', '--json'])).json<BackupAnswer>();
    expect(next.point).toMatchObject({ level: 'inc', number: 5, chain: made.point.chain });
    await vm.expectChainEqualsDisks(target);
  });

  it('is suspect where its tool leaves zeros out, and says so for ever', async () => {
    const root = await scratch();
    const flat = await evolve(root, 'vda', { leavesZerosOut: true }, 2025);
    const { stderr, stdout } = await expectCli(0, importing(root));
    expect(stderr).toContain('vda.inc.virtnbdbackup.1.data is suspect: made by a virtnbdbackup of 2025-11-21');
    expect(stdout).toContain('3 of the files are suspect');
    expect((await expectCli(0, ['list', '--target', join(root, 'target')])).stdout.match(/suspect/g)).toHaveLength(3);

    await expectRestores(root, 'vda', '0', flat[0]!);
    // And rightly so: what the guest zeroed is not in the streams.
    await expect(expectRestores(root, 'vda', '1', flat[1]!)).rejects.toThrow('is not');
    const again = ['restore', '--target', join(root, 'target'), '--output', join(root, 'again'), '--point', '1'];
    expect((await expectCli(0, again)).stderr).toContain('vda is suspect');
  });

  it('is not suspect when the log tells that zeros were kept', async () => {
    const root = await scratch();
    await evolve(root, 'vda', {}, 2025);
    const log = (arguments_: string, checkpoint: string): string =>
      `[2025-11-21 10:00:00] INFO lib common - printVersion [main]: Version: 2.30 Arguments: virtnbdbackup ${arguments_}\n` +
      `[2025-11-21 10:00:01] INFO root virtnbdbackup - main [main]: Using checkpoint name: [${checkpoint}].\n`;
    await writeFile(join(root, 'streams', 'backup.inc.11212025100000.log'), log('-l inc --no-sparse-detection', C1));
    await writeFile(join(root, 'streams', 'backup.inc.11222025100000.log'), log('-l inc', C2));
    const { points } = (await expectCli(0, [...importing(root, '--dry-run'), '--json'])).json<Imported>();
    expect(points.map(({ disks }) => disks[0]!.suspect !== null)).toEqual([false, false, true, true]);
  });

  it('may be diffs, copies and raw images too', async () => {
    const root = await scratch();
    const disk = await new BackedUpDisk(root, 'vda').create();
    await disk.change({ what: 1, offset: 0, length: 3 * MiB });
    const copy = await disk.full(C0, '2024-11-19T10:00:00.1', 'copy');
    const full = await disk.full();
    await disk.change({ what: 2, offset: 65_536, length: 65_536 });
    const diff = await disk.diff(1_732_183_200, C0, '2024-11-21T10:00:00.1');
    await disk.change({ what: 'zero', offset: 0, length: 100 });
    const inc = await disk.inc(C1, C0, '2024-11-22T10:00:00.1');
    await writeFile(join(root, 'streams', 'vdb.copy.data'), await readFile(inc));

    const { points } = (await expectCli(0, [...importing(root), '--json'])).json<Imported>();

    expect(points.map(({ level, number }) => `${level} ${number}`)).toEqual([
      'copy 0',
      'full 0',
      'diff 1',
      'inc 2',
      'copy 0',
    ]);
    for (const [number, raw] of [full, diff, inc].entries()) await expectRestores(root, 'vda', String(number), raw);
    const target = join(root, 'target');
    for (const [name, raw, at] of [
      ['vda', copy, 0],
      ['vdb', inc, 4],
    ] as const) {
      await expectSame(join(target, name, points[at]!.disks[0]!.file), raw);
    }
  });

  it('is told beforehand, and then nothing is made', async () => {
    const root = await scratch();
    await evolve(root, 'vda');
    const { stdout } = await expectCli(0, importing(root, '--dry-run'));
    expect(stdout).toContain('would become 4 points');
    expect(await readdir(root)).not.toContain('target');
  });
});

describe('an import is refused, and nothing is left,', () => {
  const inFolder =
    (change: (streams: string) => Promise<unknown>) =>
    (root: string): Promise<unknown> =>
      change(join(root, 'streams'));
  const INC2 = `vda.inc.${C2}.data`;

  it.each<[string, (root: string) => Promise<unknown>, number, string]>([
    [
      'a missing increment',
      inFolder((at) => rm(join(at, INC2))),
      13,
      `${INC2} is missing: vda.inc.${C3}.data builds on it`,
    ],
    ['a missing full', inFolder((at) => rm(join(at, 'vda.full.data'))), 13, 'vda.full.data is missing'],
    [
      'an unfinished stream',
      inFolder((at) => rename(join(at, INC2), join(at, `${INC2}.partial`))),
      13,
      'was not finished',
    ],
    ['a stream that was cut off', inFolder((at) => truncate(join(at, INC2), 70_000)), 4, `${INC2}: its end is missing`],
    [
      'a stream with a part cut out of it',
      inFolder(async (at) => {
        const bytes = await readFile(join(at, INC2));
        await writeFile(join(at, INC2), Buffer.concat([bytes.subarray(0, 10_000), bytes.subarray(20_000)]));
      }),
      4,
      `${INC2}: `,
    ],
    ['a folder without any stream', inFolder((at) => rm(at, { recursive: true })), 10, 'cannot read the folder'],
    [
      'a link to a stream',
      inFolder(async (at) => {
        await rename(join(at, INC2), join(at, 'elsewhere'));
        await symlink(join(at, 'elsewhere'), join(at, INC2));
      }),
      13,
      'is no regular file',
    ],
    ['its own folder', (root) => symlink(join(root, 'streams'), join(root, 'target')), 2, 'into their own folder'],
  ])('for %s', async (_, change, exitCode, why) => {
    const root = await scratch();
    await evolve(root, 'vda');
    await change(root);
    const before = await photograph(root);
    expect((await expectCli(exitCode, importing(root))).stderr).toContain(why);
    expect(await photograph(root)).toEqual(before);
    expect(await readdir(root)).not.toContain(_ === 'its own folder' ? '-' : 'target');
  });

  it('for a target that is in use', async () => {
    const root = await scratch();
    await evolve(root, 'vda');
    await expectCli(0, importing(root));
    const before = await photograph(root);
    expect((await expectCli(13, importing(root))).stderr).toContain('it has a catalog');
    expect((await expectCli(13, importing(root, '--dry-run'))).stderr).toContain('it has a catalog');
    expect(await photograph(root)).toEqual(before);
  });
});

function untilSays(child: ReturnType<typeof startCli>, words: string): Promise<void> {
  let said = '';
  return new Promise((resolve, reject) => {
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (said.includes(words)) resolve();
    });
    child.stderr.on('end', () => reject(new Error(`it never said "${words}": ${said}`)));
  });
}

describe('an import that was killed', () => {
  it('left nothing that counts, and the next starts clean', async () => {
    const root = await scratch();
    const flat = await evolve(root, 'vda');
    const target = join(root, 'target');
    const child = startCli(importing(root));
    await untilSays(child, 'point 3 of 4');
    child.kill('SIGKILL');
    await child;

    expect(await filesIn(target)).toContain('run.json');
    await expectCli(10, ['list', '--target', target]);
    await expectCli(10, ['restore', '--target', target, '--output', join(root, 'out')]);

    await expectCli(0, importing(root));
    expect(await imagesIn(join(target, 'vda'))).toHaveLength(4);
    expect(await filesIn(target)).toEqual(['catalog-copy-1.json', 'catalog.json', 'vda']);
    await expectRestores(root, 'vda', '3', flat[3]!);
  });

  it('is taken away by recover, which needs no VM for it', async () => {
    const root = await scratch();
    await evolve(root, 'vda');
    const target = join(root, 'target');
    const child = startCli(importing(root));
    await untilSays(child, 'point 2 of 4');
    child.kill('SIGKILL');
    await child;
    await expectCli(0, ['recover', '--target', target]);
    expect(await filesIn(target)).toEqual([]);
  });

  it('by a signal takes back what it made', async () => {
    const root = await scratch();
    await evolve(root, 'vda');
    const child = startCli(importing(root));
    await untilSays(child, 'point 2 of 4');
    child.kill('SIGINT');
    expect((await child).exitCode).toBe(130);
    expect(await readdir(root)).not.toContain('target');
  });
});
