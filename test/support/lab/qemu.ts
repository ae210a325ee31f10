/**
 * Starts real QEMU processes for tests, the demo and the bench: with or without a guest, under software emulation.
 * Each has one monitor for the tool under test and one for the test. None outlives the process that started it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { QmpClient } from '../../../src/qmp/client.js';
import { patient } from '../patience.js';
import {
  type Disk,
  driveArguments,
  iothreadArguments,
  type LabDisk,
  scsiController,
  sharedGroups,
  usbController,
} from './disks.js';
import { ensureGuest, Guest, type Workload } from './guest.js';
import { isJsonObject } from './line-socket.js';
import { connectMonitor } from './monitor.js';
import { Output } from './output.js';
import { LAB_ENV } from './programs.js';

export { type Disk, type LabDisk } from './disks.js';

export interface GuestOptions {
  readonly workload?: readonly Workload[];
  /** MiB; 512 unless told. */
  readonly memory?: number;
  /** More words for the kernel command line. */
  readonly append?: string;
  /** false: return before the guest is up; `vm.guest.ready()` then waits for it. */
  readonly wait?: boolean;
}

export interface QemuOptions {
  /** For the sockets and the guest's console log; short, see makeLabDir. Made when missing. */
  readonly dir: string;
  readonly disks: readonly Disk[];
  readonly name?: string;
  readonly uuid?: string;
  /** A real guest; without it QEMU stays before the first instruction (-S) and writes come from guest-writes. */
  readonly guest?: GuestOptions | true;
  /** Another QEMU than that of the host. */
  readonly program?: string;
  readonly args?: readonly string[];
  /** `tcp`: a third monitor on a port of 127.0.0.1, in `vm.tcpPort`. */
  readonly monitors?: { readonly tcp?: boolean };
  /** Set the agent's socket up although no guest answers on it: nobody, then, is on the other side. */
  readonly silentAgent?: boolean;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Vm {
  readonly dir: string;
  readonly pid: number;
  /** What it was started with: `startQemu(vm.options)` starts it again. */
  readonly options: QemuOptions;
  /** The monitor that is left to the tool under test. */
  readonly socket: string;
  readonly tcpPort: number | undefined;
  /** The guest agent's socket; there when the VM has a guest or `silentAgent`. */
  readonly agentSocket: string;
  /** The test's own monitor. */
  readonly control: QmpClient;
  readonly stdout: Output;
  readonly stderr: Output;
  /** Resolves when the process has ended, however that came. */
  readonly exited: Promise<Exit>;
  disk(id: string): LabDisk;
  /** A graceful end by `quit`: QEMU stores its persistent bitmaps. */
  stop(): Promise<Exit>;
  /** SIGKILL. */
  kill(): Promise<Exit>;
}

export interface GuestVm extends Vm {
  readonly guest: Guest;
  /** Presses the power button; resolves when the guest has unmounted its disks and turned itself off. */
  powerdown(): Promise<Exit>;
}

const STOP_MS = patient(30_000);
const POWERDOWN_MS = patient(60_000);
const SOCKET_PATH_MAX = 107;
const KERNEL_LINE = 'console=ttyS0 quiet panic=-1 mitigations=off nokaslr cryptomgr.notests';

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

export function startQemu(options: QemuOptions & { readonly guest: GuestOptions | true }): Promise<GuestVm>;
export function startQemu(options: QemuOptions): Promise<Vm>;
export async function startQemu(options: QemuOptions): Promise<Vm | GuestVm> {
  const { dir } = options;
  await mkdir(dir, { recursive: true });
  const sockets = socketPaths(dir);
  const guestOptions = options.guest === true ? {} : options.guest;
  const disks = new Map(options.disks.map((disk) => [disk.id, driveArguments(disk)]));
  const args = [
    ...['-accel', 'tcg', '-nodefaults', '-no-user-config', '-display', 'none'],
    ...(options.name === undefined ? [] : ['-name', options.name]),
    ...(options.uuid === undefined ? [] : ['-uuid', options.uuid]),
    ...monitorArguments('tool', { path: sockets.tool }),
    ...monitorArguments('test', { path: sockets.test }),
    ...(options.monitors?.tcp ? monitorArguments('tcp', { host: '127.0.0.1', port: '0' }) : []),
    ...(guestOptions || options.silentAgent ? ['-device', 'virtio-serial-pci'] : []),
    ...(guestOptions || options.silentAgent ? portArguments('org.qemu.guest_agent.0', sockets.agent) : []),
    ...scsiController(options.disks),
    ...usbController(options.disks),
    ...iothreadArguments(options.disks),
    ...sharedGroups(options.disks),
    ...[...disks.values()].flatMap((disk) => disk.args),
    ...(guestOptions
      ? await guestArguments(dir, sockets.control, guestOptions, options.disks.length)
      : ['-machine', 'pc', '-m', '64', '-S']),
    ...(options.args ?? []),
  ];

  const vm = launch(options.program ?? 'qemu-system-x86_64', args);
  const guest = guestOptions && new Guest({ control: sockets.control, agent: sockets.agent });
  void vm.exited.then(() => guest?.end(vm.failure() ?? new Error('QEMU has ended')));
  try {
    const control = await connectMonitor(sockets.test, vm.failure);
    if (guest && guestOptions.wait !== false) await guest.ready(vm.failure);
    const handle: Vm = {
      dir,
      pid: vm.pid,
      options,
      socket: sockets.tool,
      tcpPort: options.monitors?.tcp ? await tcpPortOf(control) : undefined,
      agentSocket: sockets.agent,
      control,
      stdout: vm.stdout,
      stderr: vm.stderr,
      exited: vm.exited,
      disk: (id) => {
        const disk = disks.get(id);
        if (!disk) throw new Error(`no disk ${id} in this VM`);
        return disk;
      },
      stop: async () => {
        // The connection is reset as soon as QEMU has understood: the exit is the answer.
        control.execute('quit').catch(() => undefined);
        return withinOrKilled(vm, STOP_MS, 'quit');
      },
      kill: async () => {
        vm.child.kill('SIGKILL');
        return vm.exited;
      },
    };
    if (!guest) return handle;
    return {
      ...handle,
      guest,
      powerdown: async () => {
        await control.execute('system_powerdown');
        return withinOrKilled(vm, POWERDOWN_MS, 'system_powerdown');
      },
    };
  } catch (error) {
    vm.child.kill('SIGKILL');
    await vm.exited;
    // A QEMU that cannot start may hang up before it ends; why, is only there.
    const words = vm.stderr.toString().trim();
    throw words === '' ? error : new Error(`QEMU was not started: ${words}`, { cause: error });
  }
}

interface Launched {
  readonly child: ChildProcess;
  readonly pid: number;
  readonly stdout: Output;
  readonly stderr: Output;
  readonly exited: Promise<Exit>;
  /** Why the process will never answer, once that is known. */
  readonly failure: () => Error | undefined;
}

function launch(program: string, args: readonly string[]): Launched {
  // The kernel kills QEMU when this process dies without a chance to do so itself (util-linux's setpriv execs QEMU, so
  // the pid is QEMU's).
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', program, ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...LAB_ENV },
    // In a session of its own: a Ctrl-C is for us, and the VM lives for as long as we need it.
    detached: true,
  });
  running.add(child);
  const stdout = new Output(child.stdout);
  const stderr = new Output(child.stderr);
  let ended: Exit | undefined;
  let notStarted: Error | undefined;
  const exited = new Promise<Exit>((resolve) => {
    const finish = (exit: Exit): void => {
      running.delete(child);
      ended = exit;
      resolve(exit);
    };
    child.once('error', (error) => {
      notStarted = error;
      finish({ code: null, signal: null });
    });
    child.once('close', (code, signal) => finish({ code, signal }));
  });
  const failure = (): Error | undefined => {
    if (notStarted) return new Error(`QEMU was not started: ${notStarted.message}`, { cause: notStarted });
    return ended && new Error(`QEMU ended (${ended.signal ?? ended.code}): ${stderr.toString()}`);
  };
  return { child, pid: child.pid ?? -1, stdout, stderr, exited, failure };
}

async function withinOrKilled(vm: Launched, deadlineMs: number, what: string): Promise<Exit> {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    vm.child.kill('SIGKILL');
  }, deadlineMs);
  const exit = await vm.exited;
  clearTimeout(timer);
  if (late) throw new Error(`QEMU did not end within ${deadlineMs} ms of ${what} and was killed`);
  return exit;
}

function socketPaths(dir: string): { tool: string; test: string; agent: string; control: string } {
  const paths = {
    tool: join(dir, 'qmp.sock'),
    test: join(dir, 'test.sock'),
    agent: join(dir, 'agent.sock'),
    control: join(dir, 'control.sock'),
  };
  for (const path of Object.values(paths)) {
    if (Buffer.byteLength(path) > SOCKET_PATH_MAX)
      throw new Error(`too long for a unix socket, use makeLabDir: ${path}`);
  }
  return paths;
}

function monitorArguments(id: string, where: Readonly<Record<string, string>>): string[] {
  const address = Object.entries(where).map(([key, value]) => `,${key}=${value}`);
  return [
    ...['-chardev', `socket,id=monitor-${id}${address.join('')},server=on,wait=off`],
    ...['-mon', `chardev=monitor-${id},mode=control`],
  ];
}

function portArguments(name: string, path: string): string[] {
  return [
    ...['-chardev', `socket,id=${name},path=${path},server=on,wait=off`],
    ...['-device', `virtserialport,chardev=${name},name=${name}`],
  ];
}

async function guestArguments(dir: string, control: string, guest: GuestOptions, disks: number): Promise<string[]> {
  const { kernel, initramfs } = await ensureGuest();
  const words = [
    KERNEL_LINE,
    `lab.disks=${disks}`,
    ...(guest.workload?.length ? [`workload=${guest.workload.join(',')}`] : []),
    ...(guest.append === undefined ? [] : [guest.append]),
  ];
  return [
    ...['-machine', 'pc', '-cpu', 'Nehalem', '-m', String(guest.memory ?? 512)],
    ...['-kernel', kernel, '-initrd', initramfs, '-append', words.join(' ')],
    ...['-serial', `file:${join(dir, 'console.log')}`],
    ...portArguments('lab.control.0', control),
  ];
}

async function tcpPortOf(control: QmpClient): Promise<number> {
  const chardevs = await control.execute('query-chardev');
  const tcp = Array.isArray(chardevs)
    ? chardevs.filter(isJsonObject).find((chardev) => chardev.label === 'monitor-tcp')
    : undefined;
  const port = /:(\d+),/.exec(String(tcp?.filename))?.[1];
  if (port === undefined) throw new Error('QEMU does not say the port of its TCP monitor');
  return Number(port);
}
