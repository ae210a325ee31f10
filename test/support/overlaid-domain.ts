import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expectCli } from './cli.js';
import { type DomainScenario, domainScenario } from './domain-scenario.js';
import { createImage } from './lab/disk-images.js';
import { flush, write } from './lab/guest-writes.js';
import type { DomainOptions } from './lab/libvirt-domain.js';
import type { LibvirtLab } from './lab/libvirt.js';
import { run } from './lab/programs.js';
import { type RunningBackup, startRun } from './running-backup.js';
import type { BackupAnswer } from './scenario.js';

const MiB = 1024 * 1024;

/** The disks of `overlaidDomain`: a qcow2 image, a raw file and a raw block device. */
export const OVERLAID = ['vda', 'vdb', 'vdc'] as const;
export type Overlaid = (typeof OVERLAID)[number];

/** A domain whose disks are of all kinds that an overlay can lie above, and what every test of that asks. */
export interface OverlaidDomain extends DomainScenario {
  /** The disk's own image. */
  readonly imageOf: (disk: string) => string;
  /** The folder given as --overlay-dir. */
  readonly overlays: string;
  /** With --method overlay --overlay-dir. */
  overlay(level: string, ...more: string[]): Promise<BackupAnswer>;
  track(level: string, ...more: string[]): Promise<BackupAnswer>;
  /** A run with `--overlay-dir` that lasts long enough for something to be done to it, while all its disks are copied. */
  slowly(...more: string[]): Promise<RunningBackup>;
  writeAll(offset: number, pattern: number): Promise<void>;
  /** The images of a disk, the uppermost first, as the domain runs and as it will be started; fails where they differ. */
  chainOf(disk: string): Promise<readonly string[]>;
  /** Fails unless the newest point (or another), restored, equals the disks as they are. */
  expectRestored(point?: string): Promise<void>;
  /** The same of the newest point in another target. */
  expectEqual(target: string): Promise<void>;
  /** Fails unless each disk is on its own image, with so many overlays above it, and no other file is left. */
  expectLayers(overlays: number): Promise<void>;
}

export async function overlaidDomain(lab: LibvirtLab, more: Partial<DomainOptions> = {}): Promise<OverlaidDomain> {
  const dir = join(lab.dir, 'images');
  const name = more.name ?? `overlaid-${Math.random().toString(36).slice(2)}`;
  const overlays = join(lab.dir, `overlays-${name}`);
  await mkdir(overlays);
  const file = (disk: string): string => join(dir, `${name}-${disk}`);
  await createImage({ file: file('vda'), format: 'qcow2', size: 32 * MiB });
  await createImage({ file: file('vdb'), format: 'raw', size: 32 * MiB });
  await createImage({ file: file('vdc'), format: 'raw', size: 32 * MiB });
  // Also inside of the lab, whose QEMUs share the devices of this host.
  const device = (await run('losetup', ['--find', '--show', file('vdc')])).stdout.trim();
  lab.atEnd(() => run('losetup', ['--detach', device]));
  const images: Readonly<Record<string, string>> = { vda: file('vda'), vdb: file('vdb'), vdc: device };
  const imageOf = (disk: string): string => images[disk] ?? '';
  const disks = OVERLAID.map((target) => ({
    target,
    file: imageOf(target),
    ...(target === 'vda' ? {} : { format: 'raw' as const }),
  }));
  const scenario = await domainScenario(lab, { ...more, name, disks });
  const { domain, target } = scenario;
  const overlay = (level: string, ...options: string[]): Promise<BackupAnswer> =>
    scenario.backup(level, '--method', 'overlay', '--overlay-dir', overlays, ...options);
  const self: OverlaidDomain = {
    ...scenario,
    imageOf,
    overlays,
    overlay,
    track: (level, ...options) => overlay(level, '--track', 'overlay', ...options),
    slowly: async (...options) => {
      for (let at = 16; at < 24; at += 1) await self.writeAll(at, at);
      const args = ['backup', '--target', target, '--method', 'overlay', '--overlay-dir', overlays, ...options];
      const running = startRun([...scenario.vm, ...args, '--speed-limit', '1M']);
      while (!(await isServed())) {
        if (!running.running()) throw new Error(`it has ended: ${(await running.ended).stderr}`);
        await sleep(50);
      }
      return running;
    },
    writeAll: async (offset, pattern) => {
      for (const disk of OVERLAID) await write(domain, disk, { offset: offset * MiB, length: MiB, pattern });
    },
    chainOf: async (disk) => {
      const [live = [], next = []] = await Promise.all([chainIn([]), chainIn(['--inactive'])]);
      if (live.join() !== next.join()) throw new Error(`${disk} runs on ${live.join()}, and will on ${next.join()}`);
      return live;

      async function chainIn(options: readonly string[]): Promise<readonly string[]> {
        const { stdout } = await lab.virsh(['dumpxml', domain.uuid, ...options]);
        const [xml = ''] = stdout.match(new RegExp(`<disk [^]*?<target dev='${disk}'[^]*?</disk>`, 'g')) ?? [];
        const own = xml.slice(xml.lastIndexOf('<disk '));
        return [...own.matchAll(/<source (?:file|dev)='([^']+)'/g)].map(([, path = '']) => path);
      }
    },
    expectRestored: (point) => expectEqual(target, point),
    expectEqual: (from) => expectEqual(from),
    expectLayers: async (count) => {
      for (const disk of OVERLAID) {
        const chain = await self.chainOf(disk);
        const image = chain.at(-1);
        if (chain.length !== count + 1 || image !== imageOf(disk)) {
          throw new Error(`${disk} is on ${chain.join(' above ')}`);
        }
      }
      const there = await readdir(overlays);
      if (there.length !== count * OVERLAID.length) throw new Error(`overlays: ${there.join(', ')}`);
      if (existsSync(join(target, 'run.json'))) throw new Error('a journal is left');
    },
  };
  return self;

  /** The images of all its disks; other runs of this host have servers, too. */
  async function isServed(): Promise<boolean> {
    const { stdout } = await run('pgrep', ['-af', 'qemu-nbd .*--read-only'], { allowed: [0, 1] });
    const own = [`${overlays}/`, ...OVERLAID.map(imageOf)];
    const servers = stdout.split('\n').filter((line) => own.some((image) => line.includes(image)));
    return servers.length >= OVERLAID.length;
  }

  async function expectEqual(from: string, point?: string): Promise<void> {
    const output = join(lab.dir, `restored-${Math.random().toString(36).slice(2)}`);
    const which = point === undefined ? [] : ['--point', point];
    await expectCli(0, ['restore', '--target', from, '--output', output, ...which]);
    for (const disk of OVERLAID) {
      if ((await domain.state()) !== 'shut off') await flush(domain, disk);
      const [top = ''] = await self.chainOf(disk);
      const format = top === imageOf(disk) && disk !== 'vda' ? 'raw' : 'qcow2';
      await run('qemu-img', ['compare', '-U', '-f', 'qcow2', '-F', format, join(output, `${disk}.qcow2`), top]);
    }
  }
}
