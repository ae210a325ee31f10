import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { built } from './built.js';

/**
 * A process of its own that takes and releases locks on command, so that tests can kill or stop it. Commands are
 * lines of JSON; each is answered by one.
 */
const PROGRAM = `
import { createInterface } from 'node:readline';
const { lockTarget, lockVm } = await import(process.argv[1]);
const say = (message) => process.stdout.write(JSON.stringify(message) + '\\n');
let lock;
const commands = {
  async lock({ kind, key, purpose, breakLock, looks }) {
    try {
      lock = await (kind === 'vm' ? lockVm : lockTarget)(key, { purpose, breakLock, ...(looks && { lookUntil: new AbortController().signal }) });
      lock.signal.addEventListener('abort', () => say({ event: 'lost', message: lock.signal.reason.message }));
      return { locked: true };
    } catch (error) {
      return { locked: false, code: error.code, message: error.message, hint: error.hint };
    }
  },
  async release() {
    await lock.release();
    return { released: true };
  },
  async handleSignals() {
    process.once('SIGTERM', async () => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      say({ event: 'cleaned up' });
      await lock.release();
      process.exit(143);
    });
    return { handling: true };
  },
  async exit({ code }) {
    process.exit(code);
  },
};
say({ event: 'ready' });
for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...rest } = JSON.parse(line);
  say(await commands[command](rest));
}
`;

/** Looked up once: children are started side by side. */
let program: Promise<string> | undefined;

export interface LockAnswer {
  readonly locked: boolean;
  readonly code?: string;
  readonly message?: string;
  readonly hint?: string;
}

export class LockChild {
  readonly process: ChildProcess;
  readonly #lines: AsyncIterator<string, undefined>;

  private constructor(child: ChildProcess) {
    this.process = child;
    this.#lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  }

  static async start(): Promise<LockChild> {
    program ??= built('repository/lock.js');
    const args = ['--input-type=module', '-e', PROGRAM, await program];
    const child = new LockChild(spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] }));
    await child.next();
    return child;
  }

  get pid(): number {
    return this.process.pid!;
  }

  /** The next line that it says. */
  async next(): Promise<Record<string, unknown>> {
    const line: IteratorResult<string, undefined> = await this.#lines.next();
    if (line.done === true) throw new Error('the process ended');
    return JSON.parse(line.value) as Record<string, unknown>;
  }

  send(command: string, more: object = {}): void {
    this.process.stdin!.write(`${JSON.stringify({ command, ...more })}\n`);
  }

  async ask(command: string, more: object = {}): Promise<Record<string, unknown>> {
    this.send(command, more);
    return this.next();
  }

  async lock(kind: 'target' | 'vm', key: string, more: object = {}): Promise<LockAnswer> {
    const answer = await this.ask('lock', { kind, key, purpose: 'test', breakLock: false, ...more });
    return answer as unknown as LockAnswer;
  }

  /** Sends a signal and waits for the end. */
  async end(signal: NodeJS.Signals): Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null }> {
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const ended = once(this.process, 'exit');
      this.process.kill(signal);
      await ended;
    }
    return { code: this.process.exitCode, signal: this.process.signalCode };
  }
}
