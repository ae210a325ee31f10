import { execa } from 'execa';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { checkFs, fileChecksums } from '../test/support/lab/compare.js';
import { makeExt4 } from '../test/support/lab/disk-images.js';
import { makeLabDir, projectRoot } from '../test/support/lab/programs.js';
import { type GuestVm, startQemu } from '../test/support/lab/qemu.js';

/**
 * The main job as a person would do it: boot a guest, FULL, two INC, each with the guest frozen for a moment, restore
 * every point, and compare every file's checksum with what the guest had at that point.
 */
const MiB = 1024 * 1024;
const DISKS = [
  { id: 'disk1', label: 'DATA1', mount: '/mnt/d1' },
  { id: 'disk2', label: 'DATA2', mount: '/mnt/d2' },
] as const;

type Checksums = ReadonlyMap<string, string>;

/** Per point, per disk: the sha256 of every file that the guest had. */
type Expected = Readonly<Record<string, Checksums>>;

const dir = await makeLabDir();
let vm: GuestVm | undefined;
const interrupted = (): void => {
  vm?.kill().catch(() => undefined);
  process.exitCode = 130;
};
process.once('SIGINT', interrupted);
process.once('SIGTERM', interrupted);
try {
  await demo();
} finally {
  await vm?.kill();
  await rm(dir, { recursive: true, force: true });
}

async function demo(): Promise<void> {
  const target = join(dir, 'backup');
  say('Booting a Linux guest with two ext4 disks and a guest agent (software emulation, some seconds) …');
  vm = await bootGuest();
  const { guest } = vm;
  const expected: Expected[] = [];

  await guest.run(
    'for d in 1 2; do mkdir /mnt/d$d/docs; for i in 1 2 3 4 5 6 7 8; do head -c 2000000 /dev/urandom > /mnt/d$d/docs/file$i; done; done',
  );
  expected.push(await takePoint(vm, target, 'full'));
  await guest.run(
    'echo changed > /mnt/d1/docs/file1; rm /mnt/d2/docs/file3; head -c 3000000 /dev/urandom > /mnt/d2/docs/new',
  );
  expected.push(await takePoint(vm, target, 'inc'));
  await guest.run('mv /mnt/d1/docs/file2 /mnt/d1/moved; head -c 1000000 /dev/urandom > /mnt/d1/docs/file4; sync');
  expected.push(await takePoint(vm, target, 'inc'));

  await qmpbackup(['list', '--target', target]);
  let files = 0;
  for (const [number, sums] of expected.entries()) files += await provePoint(target, number, sums);

  say('\nThe folder:');
  for (const file of (await readdir(target, { recursive: true })).sort()) {
    const { size } = await stat(join(target, file));
    say(`  ${file.padEnd(34)} ${(size / MiB).toFixed(1).padStart(7)} MiB`);
  }
  say(
    `\nProved: ${expected.length} restore points of 2 disks; each is a clean file system (e2fsck, no journal to replay),`,
  );
  say(`and all ${files} files have the checksum that they had in the guest at that point. Nothing is left behind.`);
}

async function bootGuest(): Promise<GuestVm> {
  const disks = DISKS.map(({ id, label }) => ({ id, label, file: join(dir, `${id}.qcow2`) }));
  for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 256 * MiB });
  return startQemu({
    dir: join(dir, 'vm'),
    name: 'demo',
    guest: true,
    disks: disks.map(({ id, file }) => ({ id, file })),
  });
}

/** One point; the guest does nothing meanwhile, so that its files now are the files of the point. */
async function takePoint(guestVm: GuestVm, target: string, level: string): Promise<Expected> {
  const { socket, agentSocket, guest } = guestVm;
  const sockets = ['--socket', socket, '--agent-socket', agentSocket];
  await qmpbackup([...sockets, 'backup', '--level', level, '--quiesce=require', '--target', target]);
  const sums = await Promise.all(DISKS.map(async ({ id, mount }) => [id, await guest.fileChecksums(mount)] as const));
  return Object.fromEntries(sums);
}

async function provePoint(target: string, number: number, expected: Expected): Promise<number> {
  const output = join(dir, `restored-${number}`);
  await qmpbackup(['--quiet', 'restore', '--target', target, '--point', String(number), '--output', output]);
  let files = 0;
  for (const { id } of DISKS) {
    const image = join(output, `${id}.qcow2`);
    await checkFs(image);
    const [found, sums] = [await fileChecksums(image), expected[id] ?? new Map<string, string>()];
    if (JSON.stringify([...found]) !== JSON.stringify([...sums])) {
      throw new Error(`point ${number}, ${id}: the files are not those that the guest had`);
    }
    files += sums.size;
  }
  say(`  point ${number}: both disks clean, ${files} files as the guest had them`);
  await rm(output, { recursive: true });
  return files;
}

async function qmpbackup(args: readonly string[]): Promise<void> {
  say(`\n$ qmpbackup ${args.join(' ').replaceAll(dir, '…')}`);
  await execa(process.execPath, [join(projectRoot(), 'bin', 'qmpbackup.js'), ...args], { stdio: 'inherit' });
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
