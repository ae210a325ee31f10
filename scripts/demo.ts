import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
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

/** Points in order: what the guest does before each, and how it is taken. */
const STEPS = [
  {
    level: 'full',
    says: 'The guest writes 16 files of 2 MB.',
    does: `for d in 1 2; do
      mkdir /mnt/d$d/docs
      for i in 1 2 3 4 5 6 7 8; do head -c 2000000 /dev/urandom >/mnt/d$d/docs/file$i; done
    done`,
  },
  {
    level: 'inc',
    says: 'The guest changes a file on disk 1; on disk 2 it removes one and writes a new one.',
    does: 'echo changed >/mnt/d1/docs/file1; rm /mnt/d2/docs/file3; head -c 3000000 /dev/urandom >/mnt/d2/docs/new',
  },
  {
    level: 'inc',
    says: 'The guest moves a file and overwrites another, both on disk 1.',
    does: 'mv /mnt/d1/docs/file2 /mnt/d1/moved; head -c 1000000 /dev/urandom >/mnt/d1/docs/file4',
  },
] as const;

/** Per disk: the sha256 of every file that the guest had. */
type Expected = Readonly<Record<string, ReadonlyMap<string, string>>>;

const started = performance.now();
const dir = await makeLabDir();
// What the programs of the lab put aside goes away with it, whatever ends them.
process.env['TMPDIR'] = dir;

const interrupt = new AbortController();
let vm: GuestVm | undefined;
/** While the program runs. */
let atWork = false;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stop(`${signal} came`));
// A reader that has gone, such as the end of `| head`.
process.stdout.on('error', () => stop('nobody reads the output'));

try {
  await demo();
} catch (error) {
  // Ctrl-C reaches all programs of the demo: the end of another may be heard of before our own signal.
  await sleep(200);
  if (!interrupt.signal.aborted) throw error;
  process.exitCode = 130;
} finally {
  await vm?.kill();
  await rm(dir, { recursive: true, force: true });
}
if (interrupt.signal.aborted) process.stderr.write('\nInterrupted. Nothing is left behind.\n');
else say(`Nothing is left behind. That took ${Math.round((performance.now() - started) / 1000)} s.`);

function stop(why: string): void {
  interrupt.abort(new Error(why));
  // Whatever is being asked of the guest ends with it; a backup that is interrupted tidies up in the VM first.
  if (!atWork) vm?.kill().catch(() => undefined);
}

async function demo(): Promise<void> {
  say('Booting a Linux guest with two ext4 disks and a guest agent, in software emulation …');
  const { guest } = await bootGuest();
  const expected: Expected[] = [];
  for (const { says, does, level } of STEPS) {
    say(`\n${says}`);
    await guest.run(does);
    await qmpbackup(
      ...['--socket', 'qmp.sock', '--agent-socket', 'agent.sock'],
      ...['backup', '--level', level, '--quiesce=require', '--target', 'backup'],
    );
    // The guest does nothing of its own accord: its files now are the files of the point.
    const sums = await Promise.all(DISKS.map(async ({ id, mount }) => [id, await guest.fileChecksums(mount)] as const));
    expected.push(Object.fromEntries(sums));
  }
  say('');
  await qmpbackup('list', '--target', 'backup');

  let files = 0;
  for (const [number, sums] of expected.entries()) files += await provePoint(number, sums);
  say('\nThe folder:');
  await showFolder(join(dir, 'backup'));
  say(
    `\nProved: ${expected.length} restore points of 2 disks. Each is a clean file system (e2fsck, no journal to replay),`,
  );
  say(`and all ${files} files have the checksum that they had in the guest at that point.`);
}

async function bootGuest(): Promise<GuestVm> {
  const disks = DISKS.map(({ id, label }) => ({ id, label, file: join(dir, `${id}.qcow2`) }));
  for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 256 * MiB });
  interrupt.signal.throwIfAborted();
  // The wait comes after it is known here, so that it can be ended.
  const booting = await startQemu({
    dir,
    name: 'demo',
    guest: { wait: false },
    disks: disks.map(({ id, file }) => ({ id, file })),
  });
  vm = booting;
  interrupt.signal.throwIfAborted();
  await booting.guest.ready();
  return booting;
}

/** Restores a point, and throws unless its disks are clean and hold the files that the guest had. */
async function provePoint(number: number, expected: Expected): Promise<number> {
  const output = `restored-${number}`;
  say('');
  await qmpbackup('restore', '--target', 'backup', '--point', String(number), '--output', output);
  let files = 0;
  for (const { id } of DISKS) {
    const image = join(dir, output, `${id}.qcow2`);
    await checkFs(image);
    const [found, sums] = [await fileChecksums(image), expected[id] ?? new Map<string, string>()];
    if (JSON.stringify([...found]) !== JSON.stringify([...sums])) {
      throw new Error(`point ${number}, ${id}: the files are not those that the guest had`);
    }
    files += sums.size;
  }
  say(`→ point ${number}: both disks are clean, ${files} files are as the guest had them`);
  await rm(join(dir, output), { recursive: true });
  return files;
}

async function showFolder(folder: string): Promise<void> {
  for (const name of (await readdir(folder, { recursive: true })).sort()) {
    const info = await stat(join(folder, name));
    const size = info.isDirectory() ? '' : `${(info.size / MiB).toFixed(2).padStart(8)} MiB`;
    say(`  ${`${name}${info.isDirectory() ? '/' : ''}`.padEnd(34)}${size}`);
  }
}

/** Runs the program in the demo's folder, with its output on the screen. */
async function qmpbackup(...args: readonly string[]): Promise<void> {
  interrupt.signal.throwIfAborted();
  say(`$ qmpbackup ${args.join(' ')}`);
  atWork = true;
  try {
    await execa(process.execPath, [join(projectRoot(), 'bin', 'qmpbackup.js'), ...args], {
      cwd: dir,
      stdio: 'inherit',
      cancelSignal: interrupt.signal,
      forceKillAfterDelay: 10_000,
    });
  } finally {
    atWork = false;
  }
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
