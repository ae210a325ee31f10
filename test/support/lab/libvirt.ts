/**
 * A libvirt of its own for a test (`scripts/start-libvirt`), with domains under software emulation: with the real guest
 * or without one. Nothing of it outlives the process that started it.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, readlink, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { patient } from '../patience.js';
import { defineDomain, type DomainOptions, type LabDomain } from './libvirt-domain.js';
import { LAB_ENV, makeLabDir, type ProgramResult, projectRoot, run } from './programs.js';

const START_MS = patient(60_000);

export interface LibvirtLab {
  /** Short; what the daemons see as /var/lib/libvirt, /run/libvirt and so on is below it. */
  readonly dir: string;
  /** For `virsh --connect`. */
  readonly uri: string;
  virsh(args: readonly string[], options?: { readonly allowed?: readonly number[] }): Promise<ProgramResult>;
  /** Runs a program that sees /var/lib/libvirt and so on as the daemons do. */
  inside(program: string, args: readonly string[]): Promise<ProgramResult>;
  /** Defines a domain, shut off. */
  define(options: DomainOptions): Promise<LabDomain>;
  /** Ends libvirtd; domains live on. `kill` is SIGKILL. */
  stopDaemon(how: 'graceful' | 'kill'): Promise<void>;
  /** Starts libvirtd again and waits until it answers. */
  startDaemon(): Promise<void>;
  /** Pid, as seen here, of libvirtd, or of the QEMU of a domain. Undefined when it is not running. */
  pidOf(what: 'libvirtd' | { readonly uuid: string }): Promise<number | undefined>;
  /** What is to be done when all of it has ended. */
  atEnd(step: () => Promise<unknown>): void;
  /** Ends all of it, with every domain, and removes the folder. */
  close(): Promise<void>;
}

export async function startLibvirt(): Promise<LibvirtLab> {
  const dir = await makeLabDir();
  const uri = `qemu+unix:///system?socket=${join(dir, 'run/libvirt/libvirt-sock')}`;
  const script = join(projectRoot(), 'scripts/start-libvirt');
  // The kernel ends the script when this process dies, and the whole pid namespace with it.
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', script, '--foreground', dir], {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: { ...process.env, ...LAB_ENV },
    detached: true,
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const exited = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      said += error.message;
      resolve();
    });
    child.once('close', () => resolve());
  });
  let ended = false;
  void exited.then(() => (ended = true));
  const domains = new Set<LabDomain>();
  const last: (() => Promise<unknown>)[] = [];

  const virsh: LibvirtLab['virsh'] = (args, options = {}) => run('virsh', ['--connect', uri, ...args], options);

  const answers = async (): Promise<void> => {
    const until = Date.now() + START_MS;
    for (;;) {
      if (ended) throw new Error(`scripts/start-libvirt has ended: ${said}`);
      const { exitCode } = await virsh(['version'], { allowed: [0, 1] });
      if (exitCode === 0) return;
      if (Date.now() > until) throw new Error(`libvirtd does not answer within ${START_MS} ms: ${said}`);
      await sleep(100);
    }
  };

  const labPid = async (): Promise<number> => Number(await readFile(join(dir, 'lab.pid'), 'utf8'));

  const pidOf: LibvirtLab['pidOf'] = async (what) =>
    findProcess(await readlink(`/proc/${await labPid()}/ns/pid`), (args) =>
      what === 'libvirtd' ? args[0] === 'libvirtd' : args[args.indexOf('-uuid') + 1] === what.uuid,
    );

  const lab: LibvirtLab = {
    dir,
    uri,
    virsh,
    inside: async (program, args) =>
      run('nsenter', ['--mount', '--pid', '--target', String(await labPid()), program, ...args]),
    pidOf,
    define: async (options) => {
      const domain = await defineDomain(lab, { uuid: randomUUID(), ...options });
      domains.add(domain);
      return domain;
    },
    stopDaemon: async (how) => {
      const pid = await pidOf('libvirtd');
      if (pid === undefined) throw new Error('libvirtd is not running');
      process.kill(pid, how === 'kill' ? 'SIGKILL' : 'SIGTERM');
      while (await isAlive(pid)) await sleep(20);
    },
    startDaemon: async () => {
      const inside = ['--target', String(await labPid()), '--mount', '--pid'];
      const start = ['libvirtd', '--daemon', '--pid-file', join(dir, 'libvirtd.pid')];
      // A child that one which was killed has just made may hold that file a moment longer.
      for (const until = Date.now() + START_MS; ; await sleep(200)) {
        const { exitCode, stderr } = await run('nsenter', [...inside, ...start], { allowed: [0, 1] });
        if (exitCode === 0) break;
        if (Date.now() > until) throw new Error(`libvirtd does not start: ${stderr}`);
      }
      await answers();
    },
    atEnd: (step) => void last.push(step),
    close: async () => {
      for (const domain of domains) domain.forget();
      // With the first process of its namespace everything else has ended before that process is gone.
      if (existsSync(join(dir, 'lab.pid'))) process.kill(await labPid(), 'SIGKILL');
      else child.kill('SIGKILL');
      await exited;
      for (const step of last) await step();
      await rm(dir, { recursive: true, force: true });
    },
  };
  try {
    await answers();
    await mkdir(join(dir, 'images'));
    return lab;
  } catch (error) {
    await lab.close();
    throw error;
  }
}

async function isAlive(pid: number): Promise<boolean> {
  try {
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    return !/^State:\s+Z/m.test(status);
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

/** The pid, as seen here, of a process of another pid namespace, by its command line. */
async function findProcess(namespace: string, isIt: (args: readonly string[]) => boolean): Promise<number | undefined> {
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const args = (await readFile(`/proc/${entry}/cmdline`, 'utf8')).split('\0');
      if (isIt(args) && (await readlink(`/proc/${entry}/ns/pid`)) === namespace) return Number(entry);
    } catch (error) {
      // Processes end while they are looked at.
      if (!isGone(error)) throw error;
    }
  }
  return undefined;
}

function isGone(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return code === 'ENOENT' || code === 'ESRCH';
}
