import { randomBytes } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { type Lab, makeDisk, makeLab, photograph, pointsOf, record, withPieceList } from '../support/chains.js';
import { expectCli, startCli } from '../support/cli.js';
import { flip } from '../support/damages.js';
import { sumOf } from '../support/guest-disk.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { run } from '../support/lab/programs.js';
import { startMount } from '../support/mounting.js';
import { labDir } from '../support/scenario.js';
import { startServe } from '../support/serving.js';

/** Bits that turned in a backup whose sizes and times are as they were: whoever reads them hears of it, and who reads others does not. */
const [FULL, INC] = ['FULL-100.qcow2', 'INC-101.qcow2'] as const;
const SIZE = 64;

interface Rotten {
  readonly lab: Lab;
  /** Its path; the file `far` has another bit in its middle. */
  readonly full: string;
  readonly state: string;
  /** Where in the disk that is. */
  readonly at: number;
  readonly env: { readonly TMPDIR: string };
}

async function rotten(): Promise<Rotten> {
  const lab = await makeLab();
  const [state, raw, piece] = ['state', 'disk.raw', 'piece'].map((name) => join(lab.root, name)) as [
    string,
    string,
    string,
  ];
  await mkdir(join(state, 'data'), { recursive: true });
  const mark = randomBytes(32);
  for (const [name, size] of Object.entries({ near: 1, far: 24 })) {
    const content = randomBytes(size * MiB);
    if (name === 'far') mark.copy(content, 12 * MiB);
    await writeFile(join(state, 'data', name), content);
  }
  await makeExt4({ file: raw, format: 'raw', size: SIZE * MiB, label: 'DATA1', contents: state, onPartition: true });
  const bytes = await readFile(raw);
  await writeFile(piece, bytes.subarray(-2 * MiB, -MiB));
  const entries = await makeDisk(lab, 'd1', [
    { file: FULL, size: SIZE, io: [`write -s ${raw} 0 ${SIZE}M`] },
    { file: INC, on: FULL, size: SIZE, io: [`write -s ${piece} ${SIZE - 2}M 1M`] },
  ]);
  await record(lab, pointsOf(await Promise.all(entries.map((each) => withPieceList(lab, each)))));
  const full = join(lab.folder('d1'), FULL);
  await flip(full, (await readFile(full)).indexOf(mark));
  return { lab, full, state, at: bytes.indexOf(mark), env: { TMPDIR: await labDir() } };
}

it('files get gives no file a name that was read from damage, and all others', async () => {
  const { lab, full, state, env } = await rotten();
  const before = await photograph(lab.target);
  const output = join(lab.root, 'got');
  const get = ['files', 'get', '--target', lab.target];
  await expectCli(0, [...get, '-o', output, '/data/near'], { env });
  expect(await sumOf(join(output, 'near'))).toBe(await sumOf(join(state, 'data/near')));
  for (const args of [['-o', output], ['--tar']]) {
    const { stderr } = await expectCli(4, [...get, ...args, '/data/far'], { env, encoding: 'latin1' });
    expect(stderr).toMatch(/FULL-.* is damaged: its bytes are no longer those that were backed up: from byte \d+ to/);
  }
  expect(await readdir(output)).toEqual(['near']);
  await expectCli(0, [...get, '--no-verify', '-o', output, '/data/far'], { env });
  await run('cmp', [join(output, 'far'), join(state, 'data/far')], { allowed: [1] });
  expect(await photograph(lab.target)).toEqual(before);
  expect(await readdir(env.TMPDIR)).toEqual([]);

  // Its first L2 table: what is told of files is no longer believed either.
  const l1 = Number((await readFile(full)).readBigUInt64BE(40));
  const l2 = Number((await readFile(full)).readBigUInt64BE(l1) & 0x00ffffffffffffffn);
  await flip(full, l2 + 8 * 16 + 5);
  const find = ['files', 'find', '--target', lab.target, '--point', '1', '--name', 'near'];
  for (const args of [[...get, '-o', join(lab.root, 'more'), '/data/near'], find])
    expect((await expectCli(4, args, { env })).stderr).toMatch(/FULL-.* is damaged/);
});

it('serve says what it handed out that is damaged, and ends with 4', async () => {
  const { lab, at, env } = await rotten();
  const copy = join(lab.root, 'copy');
  for (const more of [[], ['--overlay', join(lab.root, 'overlay')]]) {
    const args = ['--target', lab.target, ...more];
    const good = await startServe(args, env);
    await run('qemu-io', ['-r', '-f', 'raw', '-c', 'read 0 1M', '-c', `read ${at + 8 * MiB} 1M`, good.disks[0]!.uri]);
    expect(await good.end()).toBe(0);
    const bad = await startServe(args, env);
    await run('qemu-io', ['-r', '-f', 'raw', '-c', `read ${at} 512`, bad.disks[0]!.uri]);
    expect(await bad.end('SIGTERM')).toBe(4);
  }
  const quick = await startServe(['--target', lab.target, '--no-verify'], env);
  await run('nbdcopy', [quick.disks[0]!.uri, copy]);
  expect(await quick.end()).toBe(0);

  const child = startCli(['serve', '--target', lab.target], { env });
  let [told, said] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (told += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  await expect.poll(() => told).toContain('nbd+unix');
  const [uri = ''] = /nbd\+unix\S+/.exec(told) ?? [];
  await run('nbdcopy', [uri, copy]);
  // At once, and once.
  await expect.poll(() => said, { timeout: 10_000 }).toContain('what was read is not what was backed up: FULL-');
  child.kill('SIGINT');
  expect((await child).exitCode).toBe(4);
  expect(said.match(/what was read is not what was backed up/g)).toHaveLength(1);
  expect(await readdir(env.TMPDIR)).toEqual([]);
});

it('mount says what it handed out that is damaged, and so does the umount of one in the background', async () => {
  const { lab, at, env } = await rotten();
  const mountpoint = join(lab.root, 'mnt');
  const args = ['--target', lab.target, mountpoint];
  const read = (offset: number) =>
    run('dd', [
      `if=${join(mountpoint, 'd1.raw')}`,
      'of=/dev/null',
      'bs=64k',
      `skip=${(offset / 65536) | 0}`,
      'count=1',
    ]);
  const good = await startMount(args, env);
  await read(0);
  expect(await good.end()).toBe(0);
  const bad = await startMount(args, env);
  await read(at);
  expect(await bad.end()).toBe(4);
  await expectCli(0, ['mount', '--background', ...args], { env });
  await read(at);
  const ended = await expectCli(4, ['umount', mountpoint], { env });
  expect(ended.stderr).toMatch(/FULL-.* is damaged/);
  expect(await readdir(env.TMPDIR)).toEqual([]);
  await expectCli(0, ['mount', '--background', ...args], { env });
  await read(0);
  await expectCli(0, ['umount', mountpoint], { env });
});
