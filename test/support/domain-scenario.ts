import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expectCli } from './cli.js';
import { compareImages } from './lab/compare.js';
import { createImage } from './lab/disk-images.js';
import { flush, write } from './lab/guest-writes.js';
import type { DomainDisk, DomainOptions, LabDomain } from './lab/libvirt-domain.js';
import type { LibvirtLab } from './lab/libvirt.js';
import { run } from './lab/programs.js';
import { patient } from './patience.js';
import type { BackupAnswer } from './scenario.js';

const MiB = 1024 * 1024;

/** A domain with two disks and no guest, a target, and what every test of it asks. */
export interface DomainScenario {
  readonly domain: LabDomain;
  readonly target: string;
  readonly fileOf: (disk: string) => string;
  /** Global options that name the domain. */
  readonly vm: readonly string[];
  backup(level: string, ...more: string[]): Promise<BackupAnswer>;
  /** Fails unless the newest point, restored, equals the disks as they are. */
  expectChainEqualsDisks(target?: string): Promise<void>;
  /** No job, no scratch, no partial file, and no checkpoint but those of the newest file and the newest FULL. */
  expectNothingLeft(checkpoints: number): Promise<void>;
  /** Of a domain that is off: fails where a bitmap of ours in an image has no checkpoint, and so no end. */
  expectNoStrayBitmaps(): Promise<void>;
  checkpoints(): Promise<readonly string[]>;
}

let count = 0;

export async function domainScenario(lab: LibvirtLab, more: Partial<DomainOptions> = {}): Promise<DomainScenario> {
  count += 1;
  const name = more.name ?? `domain-${count}`;
  const dir = join(lab.dir, 'images');
  const target = join(lab.dir, `target-${count}`);
  const disks = more.disks ?? (await emptyDisks(dir, name));
  const fileOf = (disk: string): string => disks.find(({ target: each }) => each === disk)?.file ?? '';
  const others = await socketFolders();
  const domain = await lab.define({ ...more, name, disks });
  await domain.start();
  const vm = ['--connect', lab.uri, '--domain', name];
  const self: DomainScenario = {
    domain,
    target,
    fileOf,
    vm,
    backup: async (level, ...options) => {
      const at = options.includes('--target') ? [] : ['--target', target];
      const result = await expectCli(0, ['--json', ...vm, 'backup', '--level', level, ...at, ...options]);
      return result.json<BackupAnswer>();
    },
    expectChainEqualsDisks: async (from = target) => {
      const output = join(lab.dir, `restored-${Math.random().toString(36).slice(2)}`);
      await expectCli(0, ['restore', '--target', from, '--output', output]);
      for (const { target: disk, file = '' } of disks) {
        if ((await domain.state()) !== 'shut off') await flush(domain, disk);
        await compareImages(join(output, `${disk}.qcow2`), file);
      }
    },
    checkpoints: async () => {
      const { stdout } = await lab.virsh(['checkpoint-list', '--name', domain.uuid]);
      return stdout.split('\n').filter((line) => line.trim() !== '');
    },
    expectNothingLeft: async (checkpoints) => {
      const left = [...(await readdir(dir)), ...(await readdir(target, { recursive: true }))];
      const stray = left.filter((file) => /\.scratch|\.partial$|run\.json|lock/.test(file));
      if (stray.length > 0) throw new Error(`files are left: ${stray.join(', ')}`);
      await expectNoSockets(others);
      const { stdout: job } = await lab.virsh(['domjobinfo', domain.uuid], { allowed: [0, 1] });
      if ((await domain.state()) !== 'shut off' && !/Job type:\s+None/.test(job))
        throw new Error(`a job is left: ${job}`);
      const names = await self.checkpoints();
      if (names.length > checkpoints) throw new Error(`checkpoints are left: ${names.join(', ')}`);
    },
    expectNoStrayBitmaps: async () => {
      const known = await self.checkpoints();
      for (const { file = '' } of disks) {
        const stray = (await ourBitmapsIn(file)).filter((each) => !known.includes(each));
        if (stray.length > 0) throw new Error(`bitmaps without a checkpoint in ${file}: ${stray.join(', ')}`);
      }
    },
  };
  return self;
}

/** Of an image that no QEMU has open. */
export async function ourBitmapsIn(image: string): Promise<readonly string[]> {
  const { stdout } = await run('qemu-img', ['info', '--output=json', image]);
  return [...stdout.matchAll(/"name": "(qmpbackup-[^"]+)"/g)].map(([, name = '']) => name);
}

async function emptyDisks(dir: string, name: string): Promise<readonly DomainDisk[]> {
  const disks = ['vda', 'vdb'].map((target) => ({ target, file: join(dir, `${name}-${target}.qcow2`) }));
  for (const { file } of disks) await createImage({ file, format: 'qcow2', size: 64 * MiB });
  return disks;
}

async function socketFolders(): Promise<readonly string[]> {
  return (await readdir('/var/tmp')).filter((name) => /\.scratch$/.test(name));
}

/** Runs of other tests have theirs there too, but none for long; `others` were there before the domain. */
async function expectNoSockets(others: readonly string[]): Promise<void> {
  let left = (await socketFolders()).filter((name) => !others.includes(name));
  for (const until = Date.now() + SOCKETS_MS; left.length > 0; await sleep(200)) {
    const now = await socketFolders();
    left = left.filter((name) => now.includes(name));
    if (left.length > 0 && Date.now() > until) throw new Error(`folders are left in /var/tmp: ${left.join(', ')}`);
  }
}

const SOCKETS_MS = patient(60_000);

/** A domain with something on its disks, and a FULL in its target. */
export async function domainWithFull(lab: LibvirtLab, more: Partial<DomainOptions> = {}): Promise<DomainScenario> {
  const scenario = await domainScenario(lab, more);
  await write(scenario.domain, 'vda', { offset: 0, length: 8 * MiB, pattern: 0x11 });
  await write(scenario.domain, 'vdb', { offset: MiB, length: 3 * MiB, pattern: 0x12 });
  const { point } = await scenario.backup('auto');
  if (point.level !== 'full' || point.number !== 0) throw new Error(`no FULL: ${JSON.stringify(point)}`);
  return scenario;
}

export async function writeBothDisks({ domain }: DomainScenario, offset: number, pattern: number): Promise<void> {
  for (const disk of ['vda', 'vdb']) await write(domain, disk, { offset: offset * MiB, length: MiB, pattern });
}

/** Pids of the processes that guard a freeze or a pull of the domain. */
export async function guardsOf(uuid: string): Promise<readonly number[]> {
  const { stdout } = await run('pgrep', ['-f', `guard-main.*${uuid}`], { allowed: [0, 1] });
  return stdout.split('\n').filter(Boolean).map(Number);
}
