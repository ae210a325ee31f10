/**
 * What can be wrong before a backup begins, as one table: each row arranges its fault, and says with what code a backup
 * then ends. `doctor` has to have said so. A test that meets a new fault of this kind adds a row here.
 */
import { mkdir, readFile, rename, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from './builders.js';
import { createEncryptedImage, createImage } from './lab/disk-images.js';
import { openSocket } from './lab/line-socket.js';
import { run } from './lab/programs.js';
import { lockFromElsewhere } from './lock-elsewhere.js';
import { mountHanging, mountSmall } from './mounts.js';
import { startBackup, untilCopying } from './running-backup.js';
import { afterTest, labDir, type Scenario, scenario, withFull, writeBoth } from './scenario.js';

export interface FaultBefore {
  readonly what: string;
  /** The exit code of the backup. */
  readonly ends: number;
  readonly arrange: () => Promise<Situation>;
}

/** What both commands are given. */
export interface Situation {
  /** Global options that name the VM. */
  readonly vm: readonly string[];
  readonly target: string;
  readonly monthly?: true;
  /** For what a target that hangs, or a monitor that says nothing, would otherwise take long. */
  readonly backupOptions?: readonly string[];
  readonly env?: NodeJS.ProcessEnv;
}

const of = (lab: Scenario, more: Partial<Situation> = {}): Situation => ({
  vm: ['--socket', lab.vm.socket],
  target: lab.target,
  ...more,
});

const MONITORS: readonly FaultBefore[] = [
  {
    what: 'there is no such socket',
    ends: 12,
    arrange: async () => {
      const dir = await labDir();
      return { vm: ['--socket', join(dir, 'none.sock')], target: join(dir, 'target') };
    },
  },
  {
    what: 'the monitor is held by another client',
    ends: 12,
    arrange: async () => {
      const lab = await scenario();
      const other = await openSocket(lab.vm.socket);
      afterTest(() => Promise.resolve(other.destroy()));
      return of(lab);
    },
  },
  {
    what: 'the monitor is one for people',
    ends: 12,
    arrange: async () => {
      const hmp = join(await labDir(), 'hmp.sock');
      const lab = await scenario(undefined, { args: ['-monitor', `unix:${hmp},server=on,wait=off`] });
      return { vm: ['--socket', hmp], target: lab.target };
    },
  },
  {
    what: 'QEMU was killed',
    ends: 12,
    arrange: async () => {
      const lab = await withFull();
      await lab.vm.kill();
      return of(lab);
    },
  },
  {
    what: 'another run has the VM',
    ends: 11,
    arrange: async () => {
      const lab = await withFull();
      await writeBoth(lab, 0, 0x21, 8);
      await untilCopying(lab, startBackup(lab, 'inc', '--speed-limit', '256K'));
      return of(lab, { target: join(lab.dir, 'other') });
    },
  },
];

const DISKS: readonly FaultBefore[] = [
  {
    what: 'there is no disk to back up',
    ends: 13,
    arrange: async () => of(await scenario([{ id: 'd1', readOnly: true }])),
  },
  {
    what: 'a disk is encrypted',
    ends: 13,
    arrange: async () => {
      const file = join(await labDir(), 'luks.qcow2');
      await createEncryptedImage(file, 16 * MiB, 'open sesame');
      const lab = await scenario([{ id: 'd1' }]);
      await lab.vm.stop();
      const disk = { id: 'd2', file, options: { 'encrypt.format': 'luks', 'encrypt.key-secret': 'key' } };
      const args = ['-object', 'secret,id=key,data=open sesame'];
      await lab.restart({ disks: [...lab.vm.options.disks, disk], args });
      return of(lab);
    },
  },
  {
    what: 'a mirror job has a disk',
    ends: 13,
    arrange: async () => {
      const lab = await scenario();
      const file = join(lab.dir, 'mirrored.qcow2');
      await createImage({ file, format: 'qcow2', size: 64 * MiB });
      const node = { driver: 'qcow2', 'node-name': 'mirrored', file: { driver: 'file', filename: file } };
      await lab.vm.control.execute('blockdev-add', node);
      await lab.vm.control.execute('blockdev-mirror', {
        ...{ 'job-id': 'mirror', device: 'd2', target: 'mirrored', sync: 'full' },
      });
      return of(lab);
    },
  },
  {
    what: 'a disk is a temporary overlay',
    ends: 13,
    arrange: async () => of(await withTemporaryDisk()),
  },
  {
    what: 'a disk has an external snapshot above its temporary overlay',
    ends: 13,
    arrange: async () => {
      const dir = await labDir();
      const lab = await withTemporaryDisk();
      for (const name of ['above', 'higher']) {
        await lab.vm.control.execute('blockdev-snapshot-sync', {
          ...{ device: 's1', 'snapshot-file': join(dir, `${name}.qcow2`), format: 'qcow2' },
        });
      }
      return of(lab);
    },
  },
];

const TARGETS: readonly FaultBefore[] = [
  {
    what: 'the target is a file',
    ends: 13,
    arrange: async () => {
      const lab = await scenario();
      await writeFile(lab.target, 'keep me');
      return of(lab);
    },
  },
  {
    what: 'the target is below a file',
    ends: 13,
    arrange: async () => {
      const lab = await scenario();
      await writeFile(lab.target, 'keep me');
      return of(lab, { target: join(lab.target, 'below') });
    },
  },
  {
    what: 'the target is the folder of a disk in another target',
    ends: 13,
    arrange: async () => {
      const lab = await withFull();
      return of(lab, { target: join(lab.target, 'd1') });
    },
  },
  {
    what: 'the target belongs to another VM',
    ends: 13,
    arrange: async () => {
      const lab = await withFull();
      const stranger = await scenario([{ id: 'd1' }], { name: 'stranger' });
      return of(stranger, { target: lab.target });
    },
  },
  {
    what: 'the target cannot be written',
    ends: 13,
    arrange: async () => {
      const lab = await scenario();
      await mkdir(lab.target);
      await run('mount', ['-t', 'tmpfs', '-o', 'ro', 'qmplab', lab.target]);
      afterTest(() => run('umount', ['-l', lab.target]));
      return of(lab);
    },
  },
  {
    what: 'the target has too little space',
    ends: 13,
    arrange: async () => {
      const lab = await scenario();
      await writeBoth(lab, 0, 0x31, 8);
      await mountSmall(lab.target, 8 * MiB);
      return of(lab);
    },
  },
  {
    what: 'the target hangs',
    ends: 1,
    arrange: async () => {
      const lab = await scenario();
      const target = join(lab.dir, 'hanging');
      (await mountHanging(target)).hang();
      return of(lab, { target, backupOptions: ['--stall-timeout', '1'] });
    },
  },
  {
    what: 'the target is locked by another host',
    ends: 11,
    arrange: async () => {
      const lab = await withFull();
      await lockFromElsewhere(lab.target);
      return of(lab);
    },
  },
  {
    what: '--monthly has no name for its folder',
    ends: 2,
    arrange: async () => of(await scenario(undefined, { name: undefined }), { monthly: true }),
  },
];

/** What is in the folder of a target that has a FULL, and what is done to it. */
const CONTENTS: readonly FaultBefore[] = (
  [
    ['the catalog is cut off', (at) => edit(join(at, 'catalog.json'), (text) => text.slice(0, text.length / 2))],
    [
      'the catalog is newer',
      (at) => edit(join(at, 'catalog.json'), (text) => text.replace(/"schema": ?\d+/, '"schema":99')),
    ],
    [
      'the catalog is hostile',
      (at) => edit(join(at, 'catalog.json'), (text) => text.replace(/FULL-\d+/g, '../FULL-1')),
    ],
    ['the catalog is a link', (at) => link(join(at, 'catalog.json'))],
    ['the journal is damaged', (at) => writeFile(join(at, 'run.json'), '{')],
    ['the journal is newer', (at) => writeFile(join(at, 'run.json'), '{"schema": 2}')],
    ['the folder of a disk is a file', (at) => replace(join(at, 'd1'), (path) => writeFile(path, ''))],
    ['the folder of a disk is a link', (at) => link(join(at, 'd1'))],
  ] satisfies [string, (target: string) => Promise<unknown>][]
).map(([what, change]) => ({
  what,
  ends: 13,
  arrange: async () => {
    const lab = await withFull();
    await change(lab.target);
    return of(lab);
  },
}));

const HOST: readonly FaultBefore[] = [
  {
    what: 'there is no qemu-img',
    ends: 1,
    arrange: async () => of(await scenario(), { env: { PATH: await labDir() } }),
  },
];

export const FAULTS_BEFORE: readonly FaultBefore[] = [...MONITORS, ...DISKS, ...TARGETS, ...CONTENTS, ...HOST];

/** A VM with a second disk that was started with `snapshot=on`. */
async function withTemporaryDisk(): Promise<Scenario> {
  const file = join(await labDir(), 'scratch.qcow2');
  await createImage({ file, format: 'qcow2', size: MiB });
  const args = ['-drive', `if=none,id=s1,file=${file},snapshot=on`, '-device', 'virtio-blk-pci,drive=s1'];
  return scenario(undefined, { args });
}

async function edit(file: string, change: (text: string) => string): Promise<void> {
  const text = await readFile(file, 'utf8');
  const changed = change(text);
  if (changed === text) throw new Error(`nothing was changed in ${file}`);
  await writeFile(file, changed);
}

async function replace(path: string, make: (path: string) => Promise<unknown>): Promise<void> {
  await rename(path, `${path}.moved`);
  await make(path);
}

function link(path: string): Promise<void> {
  return replace(path, (at) => symlink(`${at}.moved`, at));
}
