/**
 * The real Linux guest of the lab. Commands run through a port of the lab's own, so that the agent's one-client socket
 * stays free for the tool under test, and so that the guest can be reached while its file systems are frozen.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { patient } from '../patience.js';
import { isJsonObject, type JsonObject, LineSocket, openSocket } from './line-socket.js';
import { projectRoot, run } from './programs.js';

export type Workload = 'writer' | 'counter' | 'flood';

export interface GuestImages {
  readonly kernel: string;
  readonly initramfs: string;
}

/** What a command in the guest answered. */
export interface GuestResult {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

const BOOT_MS = patient(90_000);
const RUN_MS = patient(60_000);
const AGENT_MS = patient(30_000);

/** Builds the guest where it is not there yet: seconds and a download the first time, nothing afterwards. */
export async function ensureGuest(): Promise<GuestImages> {
  const { stdout } = await run(join(projectRoot(), 'scripts', 'build-guest'), []);
  const folder = stdout.trim();
  return { kernel: join(folder, 'vmlinux'), initramfs: join(folder, 'initramfs.cpio') };
}

interface Pending {
  readonly resolve: (result: GuestResult) => void;
  readonly reject: (error: Error) => void;
}

export class Guest {
  readonly #controlSocket: string;
  readonly #agentSocket: string;
  readonly #pending = new Map<string, Pending>();
  readonly #prefix = randomBytes(4).toString('hex');
  #received = Buffer.alloc(0);
  #connection: ReturnType<typeof openSocket> | undefined;
  #ended: Error | undefined;
  #count = 0;

  constructor(sockets: { readonly control: string; readonly agent: string }) {
    this.#controlSocket = sockets.control;
    this.#agentSocket = sockets.agent;
  }

  /** Resolves when the data disks are mounted and the agent answers; workloads are then starting. */
  async ready(givenUp: () => Error | undefined = () => undefined, deadlineMs = BOOT_MS): Promise<void> {
    const until = Date.now() + deadlineMs;
    // The port keeps what is written to it before the guest has opened it.
    const booted = this.tryRun('true', { deadlineMs });
    booted.catch(() => undefined);
    await booted;
    for (;;) {
      const reason = givenUp();
      if (reason) throw reason;
      try {
        await this.agent('guest-ping', {}, 2_000);
        return;
      } catch (error) {
        if (Date.now() > until) throw new Error('the guest runs but its agent does not answer', { cause: error });
        await sleep(100);
      }
    }
  }

  /** Runs a shell command as root in the guest; throws unless it exits with 0. */
  async run(command: string, options: { readonly deadlineMs?: number } = {}): Promise<string> {
    const result = await this.tryRun(command, options);
    if (result.status !== 0) {
      throw new Error(`in the guest: ${command}: exit ${result.status}\n${result.stderr}${result.stdout}`);
    }
    return result.stdout;
  }

  /** Runs a shell command as root in the guest. Commands run side by side: one that hangs holds up no other. */
  async tryRun(command: string, options: { readonly deadlineMs?: number } = {}): Promise<GuestResult> {
    const { deadlineMs = RUN_MS } = options;
    if (this.#ended) throw this.#ended;
    const id = `${this.#prefix}-${(this.#count += 1)}`;
    const result = new Promise<GuestResult>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(new Error(`in the guest: ${command}: no answer within ${deadlineMs} ms`));
      }, deadlineMs);
      const settle = (): void => {
        clearTimeout(timer);
        this.#pending.delete(id);
      };
      this.#pending.set(id, {
        resolve: (value) => {
          settle();
          resolve(value);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      });
    });
    result.catch(() => undefined);
    const socket = await this.#connect();
    socket.write(`${id} ${Buffer.from(command).toString('base64')}\n`);
    return result;
  }

  /** One command to the guest agent over a connection of its own, so that the agent's socket is free in between. */
  async agent(command: string, args: JsonObject = {}, deadlineMs = AGENT_MS): Promise<unknown> {
    const lines = await LineSocket.connect(this.#agentSocket);
    try {
      const id = randomBytes(4).readUInt32BE();
      // 0xFF makes the agent drop what it has half read; it sends one back before the answer to this command.
      lines.write(Buffer.from([0xff]));
      lines.write(`${JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } })}\n`);
      for (;;) {
        const answer = parseAnswer(await lines.readLine(deadlineMs));
        if (answer?.return === id) break;
      }
      lines.write(`${JSON.stringify({ execute: command, arguments: args })}\n`);
      const answer = parseAnswer(await lines.readLine(deadlineMs));
      if (isJsonObject(answer?.error)) throw new Error(`${command}: ${String(answer.error.desc)}`);
      return answer?.return;
    } finally {
      lines.close();
    }
  }

  /** guest-exec with captured output, as a person would use the agent. */
  async agentExec(path: string, args: readonly string[] = []): Promise<GuestResult> {
    const started = await this.agent('guest-exec', { path, arg: args, 'capture-output': true });
    if (!isJsonObject(started)) throw new Error(`guest-exec ${path}: no process`);
    for (;;) {
      const status = await this.agent('guest-exec-status', { pid: started.pid });
      if (isJsonObject(status) && status.exited === true) {
        return {
          status: Number(status.exitcode ?? -1),
          stdout: decode(status['out-data']),
          stderr: decode(status['err-data']),
        };
      }
      await sleep(50);
    }
  }

  /** Resolves when the workload `writer` has written to the file system since. */
  async untilWritten(mount: string): Promise<void> {
    await this.run(`n=$(wc -l <${mount}/written/manifest)
      until [ "$(wc -l <${mount}/written/manifest)" -gt "$n" ]; do usleep 100000; done`);
  }

  /** The sha256 of every regular file below a folder of the guest, by path relative to it, sorted. */
  async fileChecksums(folder: string): Promise<Map<string, string>> {
    const text = await this.run(`cd ${folder} && find . -type f -exec sha256sum {} +`, {
      deadlineMs: patient(120_000),
    });
    const sums = text
      .split('\n')
      .filter(Boolean)
      .map((line): [string, string] => [line.slice(66).replace(/^\.\//, ''), line.slice(0, 64)]);
    return new Map(sums.sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** Starts a workload that the kernel command line did not ask for. */
  async startWorkload(name: Workload): Promise<void> {
    await this.run(`/lab/${name} >/dev/console 2>&1 & echo $!`);
    await this.waitForWorkload(name);
  }

  /** Resolves when a workload has been through its first round. */
  async waitForWorkload(name: Workload): Promise<void> {
    await this.run(`until [ -e /run/lab/${name}.running ]; do usleep 50000; done`);
  }

  /** Resolves when every running workload stands still between two of its steps, and all is on the disks. */
  async pauseWorkload(): Promise<void> {
    await this.run(`
      : >/run/lab/pause
      for file in /run/lab/*.pid; do
        [ -e "$file" ] || continue
        name=\${file%.pid}
        until [ -e "$name.paused" ] || ! kill -0 "$(cat "$file")" 2>/dev/null; do usleep 100000; done
      done
      sync`);
  }

  async resumeWorkload(): Promise<void> {
    await this.run('rm -f /run/lab/pause');
  }

  /** Freezes one file system without the agent, so that the agent's own freeze is still free for the tool. */
  async holdStill(mountpoint: string): Promise<void> {
    await this.run(`fsfreeze --freeze ${mountpoint}`);
  }

  async letGo(mountpoint: string): Promise<void> {
    await this.run(`fsfreeze --unfreeze ${mountpoint}`);
  }

  /**
   * Whether a file system is frozen, asked of the kernel and not of the agent, whose socket may be in use: a second
   * freeze is refused as busy. One that is not frozen is, for the few milliseconds of the question.
   */
  async isFrozen(mountpoint: string): Promise<boolean> {
    const probe = `fsfreeze --freeze ${mountpoint} && fsfreeze --unfreeze ${mountpoint}`;
    const { status, stderr } = await this.tryRun(probe);
    if (status !== 0 && !stderr.includes('busy')) throw new Error(`in the guest: ${probe}: ${stderr}`);
    return status !== 0;
  }

  /** Drops the lab's connection; pending calls reject. */
  end(reason: Error): void {
    this.#ended ??= reason;
    for (const { reject } of [...this.#pending.values()]) reject(reason);
    this.#connection?.then(
      (socket) => socket.destroy(),
      () => undefined,
    );
  }

  #connect(): ReturnType<typeof openSocket> {
    this.#connection ??= openSocket(this.#controlSocket).then((socket) => {
      socket.on('data', (chunk: Buffer) => this.#receive(chunk));
      socket.on('error', (error) => this.end(error));
      socket.on('close', () => this.end(new Error('the guest is gone')));
      return socket;
    });
    return this.#connection;
  }

  #receive(chunk: Buffer): void {
    this.#received = Buffer.concat([this.#received, chunk]);
    for (;;) {
      const newline = this.#received.indexOf('\n');
      if (newline < 0) return;
      const [id = '', status, out, err] = this.#received.subarray(0, newline).toString('latin1').split(' ');
      const outEnd = newline + 1 + Number(out);
      const end = outEnd + Number(err);
      if (this.#received.length < end) return;
      this.#pending.get(id)?.resolve({
        status: Number(status),
        stdout: this.#received.toString('utf8', newline + 1, outEnd),
        stderr: this.#received.toString('utf8', outEnd, end),
      });
      this.#received = this.#received.subarray(end);
    }
  }
}

function parseAnswer(line: string): JsonObject | undefined {
  // Decoded as UTF-8 the 0xFF has become a replacement character; whatever stands before the object is no answer.
  const start = line.indexOf('{');
  if (start < 0) return undefined;
  try {
    const value: unknown = JSON.parse(line.slice(start));
    return isJsonObject(value) ? value : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function decode(base64: unknown): string {
  return typeof base64 === 'string' ? Buffer.from(base64, 'base64').toString('utf8') : '';
}
