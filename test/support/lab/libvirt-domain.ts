/** A domain of the libvirt lab: its XML, its life, and the two ways to write to its disks. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Readable, Transform } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { patient } from '../patience.js';
import type { ImageFormat } from './disk-images.js';
import type { WritableVm } from './guest-writes.js';
import { ensureGuest, Guest, type GuestImages, type Workload } from './guest.js';
import type { LibvirtLab } from './libvirt.js';
import { Output } from './output.js';
import { run } from './programs.js';

export interface DomainDisk {
  /** vda, vdb …: always virtio. */
  readonly target: string;
  /** Absolute path; none is an empty drive. */
  readonly file?: string;
  /** qcow2 unless told; raw for a cdrom. */
  readonly format?: ImageFormat;
  readonly device?: 'disk' | 'cdrom';
  /** Number of the iothread that serves it. */
  readonly iothread?: number;
  /** More elements inside of <disk>, as <readonly/> or <shareable/>. */
  readonly xml?: string;
}

export interface DomainOptions {
  readonly name: string;
  readonly uuid?: string;
  readonly disks: readonly DomainDisk[];
  /** The real guest; without it the firmware finds nothing to boot, and writes come from guest-writes. */
  readonly guest?: GuestOptions | true;
  /** More elements inside of <os>. */
  readonly os?: string;
  /** More elements inside of <devices>. */
  readonly devices?: string;
  /** What becomes of the domain when its guest panics; `destroy` unless told. */
  readonly onCrash?: 'destroy' | 'preserve';
}

export interface GuestOptions {
  readonly workload?: readonly Workload[];
  /** Of another file than the one that all guests share. */
  readonly kernel?: string;
  /** More words for it. */
  readonly append?: string;
}

export interface LabDomain extends WritableVm {
  readonly name: string;
  readonly uuid: string;
  /** What `virsh define` was given. */
  readonly xml: string;
  /** Starts it and, with a guest, waits until the agent answers. `paused` is before its first instruction. */
  start(options?: { readonly paused?: boolean }): Promise<void>;
  /** Presses the power button (real guest) and waits until the domain is off. */
  shutdown(): Promise<void>;
  /** `virsh destroy`: SIGTERM, upon which QEMU closes its images. */
  destroy(): Promise<void>;
  /** SIGKILL of QEMU; resolves when libvirt knows. */
  kill(): Promise<void>;
  /** The pid of its QEMU, as seen here. */
  pid(): Promise<number>;
  /** As `virsh domstate` says it. */
  state(): Promise<string>;
  /** Commands inside of the real guest. Its agent belongs to libvirt: ask it by `virsh qemu-agent-command`. */
  readonly guest: Omit<Guest, 'agent' | 'agentExec' | 'ready'>;
  /** Drops what the lab holds for the domain; libvirt is not asked. */
  forget(): void;
}

const KERNEL_LINE = 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr cryptomgr.notests';
const OFF_MS = patient(60_000);
const BOOT_MS = patient(120_000);

type Defined = DomainOptions & { readonly uuid: string };

export async function defineDomain(lab: LibvirtLab, options: Defined): Promise<LabDomain> {
  const { name, uuid } = options;
  const control = join(lab.dir, `${uuid.slice(0, 8)}.sock`);
  const xml = await domainXml(options, control);
  const file = join(lab.dir, `${uuid}.xml`);
  await writeFile(file, xml);
  await lab.virsh(['define', file]);

  let guest: Guest | undefined;
  let log: { readonly output: Output; readonly tail: ChildProcessByStdio<null, Readable, null> } | undefined;
  const forget = (): void => {
    guest?.end(new Error(`the domain ${name} has ended`));
    log?.tail.kill();
    guest = undefined;
    log = undefined;
  };
  const state = async (): Promise<string> => (await lab.virsh(['domstate', uuid])).stdout.trim();
  const off = async (): Promise<void> => {
    const until = Date.now() + OFF_MS;
    while ((await state()) !== 'shut off') {
      if (Date.now() > until) throw new Error(`${name} is not off after ${OFF_MS} ms`);
      await sleep(50);
    }
    forget();
  };
  const pid = async (): Promise<number> => {
    const found = await lab.pidOf({ uuid });
    if (found === undefined) throw new Error(`${name} has no QEMU`);
    return found;
  };

  return {
    name,
    uuid,
    xml,
    state,
    pid,
    forget,
    start: async ({ paused = false } = {}) => {
      forget();
      await lab.virsh(['start', uuid, ...(paused ? ['--paused'] : [])]);
      if (options.guest === undefined || paused) return;
      guest = new Guest({ control, agent: 'the agent belongs to libvirt' });
      await guest.tryRun('true', { deadlineMs: BOOT_MS });
      await agentAnswers(lab, uuid);
    },
    shutdown: async () => {
      await lab.virsh(['shutdown', uuid, '--mode', 'acpi']);
      await off();
    },
    destroy: async () => {
      await lab.virsh(['destroy', uuid]);
      await off();
    },
    kill: async () => {
      process.kill(await pid(), 'SIGKILL');
      await off();
    },
    control: {
      human: async (line) => (await lab.virsh(['qemu-monitor-command', uuid, '--hmp', line])).stdout,
    },
    get stdout() {
      log ??= follow(join(lab.dir, 'var/log/libvirt/qemu', `${name}.log`));
      return log.output;
    },
    disk: (target) => ({
      hmpReference: `-d /machine/peripheral/virtio-disk${target.charCodeAt(2) - 'a'.charCodeAt(0)}/virtio-backend`,
    }),
    get guest() {
      if (!guest) throw new Error(`${name} has no guest that runs`);
      return guest;
    },
  };
}

/** What QEMU prints goes to libvirt's log of the domain. */
function follow(file: string): { output: Output; tail: ChildProcessByStdio<null, Readable, null> } {
  // From its present end on, which must be known before the next command: older runs of the domain are in it too.
  const from = `--bytes=+${statSync(file).size + 1}`;
  const tail = spawn('setpriv', ['--pdeathsig', 'KILL', 'tail', from, '--follow=name', file], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return { output: new Output(tail.stdout.setEncoding('utf8').pipe(withoutNotes())), tail };
}

/** libvirt's own notes, each behind a time stamp, come at any time between the lines of QEMU. */
const NOTE = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\+\d+: /;

function withoutNotes(): Transform {
  let rest = '';
  return new Transform({
    decodeStrings: false,
    transform(text: string, _encoding, done) {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      done(null, lines.flatMap((line) => (NOTE.test(line) ? [] : [`${line}\n`])).join(''));
    },
    flush: (done) => done(null, rest),
  });
}

async function agentAnswers(lab: LibvirtLab, uuid: string): Promise<void> {
  const until = Date.now() + BOOT_MS;
  for (;;) {
    const ping = ['qemu-agent-command', '--timeout', '5', uuid, '{"execute":"guest-ping"}'];
    const { exitCode, stderr } = await lab.virsh(ping, { allowed: [0, 1] });
    if (exitCode === 0) return;
    if (Date.now() > until) throw new Error(`the guest runs but its agent does not answer: ${stderr}`);
    await sleep(100);
  }
}

async function domainXml(options: Defined, control: string): Promise<string> {
  const { name, uuid, disks, os = '', devices = '', onCrash = 'destroy' } = options;
  const iothreads = Math.max(0, ...disks.map(({ iothread = 0 }) => iothread));
  const images = options.guest === undefined ? undefined : await ensureGuest();
  const { workload = [], kernel, append }: GuestOptions = typeof options.guest === 'object' ? options.guest : {};
  const { stdout: emulator } = await run('sh', ['-c', 'command -v qemu-system-x86_64']);
  const words = [
    KERNEL_LINE,
    `lab.disks=${disks.length}`,
    ...(workload.length ? [`workload=${workload.join(',')}`] : []),
    ...(append === undefined ? [] : [append]),
  ];
  return `<domain type='qemu'>
  <name>${escapeXml(name)}</name>
  <uuid>${uuid}</uuid>
  <memory unit='MiB'>${images ? 512 : 64}</memory>
  <vcpu>1</vcpu>${
    iothreads > 0
      ? `
  <iothreads>${iothreads}</iothreads>`
      : ''
  }
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>${images ? boot({ ...images, ...(kernel !== undefined && { kernel }) }, words.join(' ')) : os}
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>Nehalem</model></cpu>
  <on_crash>${onCrash}</on_crash>
  <devices>
    <emulator>${escapeXml(emulator.trim())}</emulator>
${disks.map(diskXml).join('\n')}
    <controller type='usb' model='none'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'>
      <source mode='bind' path='${escapeXml(control)}'/>
      <target type='virtio' name='lab.control.0'/>
    </channel>
    <memballoon model='none'/>
    ${devices}
  </devices>
</domain>
`;
}

function boot({ kernel, initramfs }: GuestImages, words: string): string {
  return `
    <kernel>${escapeXml(kernel)}</kernel>
    <initrd>${escapeXml(initramfs)}</initrd>
    <cmdline>${escapeXml(words)}</cmdline>`;
}

export function diskXml(disk: DomainDisk): string {
  const { target, file, iothread, device = 'disk', format = device === 'disk' ? 'qcow2' : 'raw', xml = '' } = disk;
  const isDevice = file !== undefined && (statSync(file, { throwIfNoEntry: false })?.isBlockDevice() ?? false);
  return `    <disk type='${isDevice ? 'block' : 'file'}' device='${device}'>
      <driver name='qemu' type='${format}' discard='unmap'${iothread === undefined ? '' : ` iothread='${iothread}'`}/>
      ${file === undefined ? '' : `<source ${isDevice ? 'dev' : 'file'}='${escapeXml(file)}'/>`}
      <target dev='${target}' bus='${device === 'cdrom' ? 'ide' : 'virtio'}'/>
      ${xml}
    </disk>`;
}

export function escapeXml(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll("'", '&apos;')
    .replaceAll('"', '&quot;')
    .replaceAll('\n', '&#10;');
}
