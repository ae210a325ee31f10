/**
 * A libvirt domain: FULL beside a bare copy of the same kind of export, INC beside libvirt's own push increment of the
 * same change, a restore beside `qemu-img convert`. Runs are interleaved.
 */
import { rm, writeFile as writeText } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { syncFile } from '../src/host/durable.js';
import { createImage } from '../test/support/lab/disk-images.js';
import { write, writeFile } from '../test/support/lab/guest-writes.js';
import type { LabDomain } from '../test/support/lab/libvirt-domain.js';
import { type LibvirtLab, startLibvirt } from '../test/support/lab/libvirt.js';
import { MiB, peakOfAll, print, ratio, runTool, Samples, seconds } from './bench-samples.js';

const GiB = 1024 * MiB;

interface Bench {
  readonly lab: LibvirtLab;
  readonly domain: LabDomain;
  readonly vm: readonly string[];
}

export async function benchDomain(runs: number): Promise<void> {
  const lab = await startLibvirt();
  try {
    const file = join(lab.dir, 'images', 'big.qcow2');
    await createImage({ file, size: 4 * GiB, format: 'qcow2' });
    const domain = await lab.define({ name: 'bench', disks: [{ target: 'vda', file }] });
    await domain.start();
    const random = join(lab.dir, 'random');
    await execa('head', ['-c', String(64 * MiB), '/dev/urandom'], { stdout: { file: random } });
    for (let offset = 0; offset < 1.5 * GiB; offset += 64 * MiB) {
      await writeFile(domain, 'vda', { offset, length: 64 * MiB, file: random });
    }
    await measure({ lab, domain, vm: ['--quiet', '--connect', lab.uri, '--domain', domain.uuid] }, runs);
  } finally {
    await lab.close();
  }
}

async function measure(bench: Bench, runs: number): Promise<void> {
  const { lab, domain, vm } = bench;
  const times = new Samples();
  for (let run = 0; run < runs; run += 1) {
    const target = join(lab.dir, `target-${run}`);
    const backup = (level: string, ...more: readonly string[]): readonly string[] => [
      ...[...vm, 'backup', '--level', level, '--target', target, ...more],
    ];
    // In turn first and last: what comes after a copy finds memory that has just been freed.
    const copies: (() => Promise<void>)[] = [
      () => bareCopy(bench, times, 'nbdcopy', nbdcopy),
      () => bareCopy(bench, times, 'qemu-img convert', (socket, to) => convert(`nbd+unix:///vda?socket=${socket}`, to)),
      async () => times.addMs('FULL', (await runTool(backup('full', '--no-digest'))).ms),
    ];
    for (let index = 0; index < copies.length; index += 1) await copies[(run + index) % copies.length]?.();
    await write(domain, 'vda', { offset: 2 * GiB, length: 64 * MiB, pattern: run + 1 });
    times.addMs('push INC by virsh', await pushIncrement(bench));
    times.addMs('INC', (await runTool(backup('inc', '--no-digest'))).ms);
    times.addMs('INC of nothing', (await runTool(backup('inc', '--no-digest'))).ms);
    // With digests, which a restore proves.
    await runTool(backup('full'));
    await write(domain, 'vda', { offset: 2 * GiB, length: 64 * MiB, pattern: run + 101 });
    await runTool(backup('inc'));
    const output = join(lab.dir, 'restored');
    times.addMs('restore', (await runTool(['--quiet', 'restore', '--target', target, '--output', output])).ms);
    // A restore is on the disk when it ends.
    await times.add('convert of the point', async () => {
      await convert(join(output, 'vda.qcow2'), join(lab.dir, 'again'));
      await syncFile(join(lab.dir, 'again'));
    });
    for (const path of [output, join(lab.dir, 'again')]) await rm(path, { recursive: true });
    if (run === 0) {
      await write(domain, 'vda', { offset: 2 * GiB, length: 256 * MiB, pattern: 0x77 });
      const peaks = [await peakOfAll(backup('inc')), await peakOfAll(backup('full'))];
      times.memory(Math.max(...peaks), 200);
    }
    await rm(target, { recursive: true });
    await forgetCheckpoints(bench);
  }
  const { ms } = times;
  const more = ms('INC') - ms('push INC by virsh');
  print('a libvirt domain, a disk of 4 GiB', runs, [
    ['nbdcopy', seconds(ms('nbdcopy')), ''],
    ['qemu-img convert', seconds(ms('qemu-img convert')), ''],
    ['qemu-img convert, fsync', seconds(ms('qemu-img convert, fsync')), ''],
    [
      'FULL, no digest',
      seconds(ms('FULL')),
      `${ratio(ms('FULL'), ms('nbdcopy'))} × nbdcopy, ${ratio(ms('FULL'), ms('qemu-img convert'))} × convert, ` +
        `${ratio(ms('FULL'), ms('qemu-img convert, fsync'))} × convert with fsync (at most 1.15)`,
    ],
    ['push INC by virsh, 64 MiB', seconds(ms('push INC by virsh')), ''],
    ['INC of 64 MiB', seconds(ms('INC')), `at most 0.9 s; ${seconds(more)} more than the push (at most 0.5 s)`],
    ['INC of nothing', seconds(ms('INC of nothing')), ''],
    ['convert of the point, and fsync', seconds(ms('convert of the point')), ''],
    [
      'restore of FULL and INC',
      seconds(ms('restore')),
      `${ratio(ms('convert of the point'), ms('restore'))} × the speed of qemu-img convert (at least 0.9)`,
    ],
    ...times.notes(),
  ]);
}

/** What was copied goes at once, so that nobody pays for what another has not written out yet. */
async function bareCopy(
  bench: Bench,
  times: Samples,
  name: string,
  copy: (socket: string, to: string) => Promise<void>,
): Promise<void> {
  const to = join(bench.lab.dir, 'copied.qcow2');
  await pulled(bench, async (socket) => {
    const begun = performance.now();
    await copy(socket, to);
    times.addMs(name, performance.now() - begun);
    // A FULL is on the disk when it ends.
    await syncFile(to);
    times.addMs(`${name}, fsync`, performance.now() - begun);
  });
  await rm(to);
}

/** A pull backup by virsh alone, while `use` reads from its socket. */
async function pulled({ lab, domain }: Bench, use: (socket: string) => Promise<void>): Promise<void> {
  const socket = join(lab.dir, 'pull.sock');
  const scratch = `<scratch file='${join(lab.dir, 'images', 'scratch')}'/>`;
  const disks = `<disks><disk name='vda' type='file'>${scratch}</disk></disks>`;
  await begin(
    lab,
    domain,
    `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/>${disks}</domainbackup>`,
  );
  await use(socket);
  await lab.virsh(['domjobabort', domain.uuid]);
  await untilIdle(lab, domain);
}

/** What libvirt takes to push what changed since our newest checkpoint, with a checkpoint of its own as a chain needs. */
async function pushIncrement({ lab, domain }: Bench): Promise<number> {
  const file = join(lab.dir, 'pushed.qcow2');
  const [since = ''] = await checkpoints(lab, domain);
  const disk = `<disk name='vda' backupmode='incremental' incremental='${since}' type='file'>`;
  const xml = `<domainbackup><disks>${disk}<driver type='qcow2'/><target file='${file}'/></disk></disks></domainbackup>`;
  const checkpoint = join(lab.dir, 'checkpoint.xml');
  await writeText(checkpoint, '<domaincheckpoint><name>bench</name></domaincheckpoint>');
  const begun = performance.now();
  await begin(lab, domain, xml, checkpoint);
  await untilIdle(lab, domain);
  const ms = performance.now() - begun;
  await lab.virsh(['checkpoint-delete', domain.uuid, 'bench']);
  await rm(file);
  return ms;
}

async function begin(lab: LibvirtLab, domain: LabDomain, xml: string, ...more: readonly string[]): Promise<void> {
  const file = join(lab.dir, 'backup.xml');
  await writeText(file, xml);
  await lab.virsh(['backup-begin', domain.uuid, file, ...more]);
}

async function untilIdle(lab: LibvirtLab, domain: LabDomain): Promise<void> {
  while (!/Job type:\s+None/.test((await lab.virsh(['domjobinfo', domain.uuid])).stdout)) await sleep(10);
}

async function checkpoints(lab: LibvirtLab, domain: LabDomain): Promise<readonly string[]> {
  const { stdout } = await lab.virsh(['checkpoint-list', '--name', domain.uuid]);
  return stdout.split('\n').filter((line) => line !== '');
}

async function forgetCheckpoints({ lab, domain }: Bench): Promise<void> {
  for (const name of await checkpoints(lab, domain)) await lab.virsh(['checkpoint-delete', domain.uuid, name]);
}

async function nbdcopy(socket: string, to: string): Promise<void> {
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', to, String(4 * GiB)]);
  const server = ['[', 'qemu-nbd', '-f', 'qcow2', to, ']'];
  await execa('nbdcopy', ['--destination-is-zero', '--', `nbd+unix:///vda?socket=${socket}`, ...server]);
}

async function convert(from: string, to: string): Promise<void> {
  await execa('qemu-img', ['convert', '-O', 'qcow2', from, to]);
}
