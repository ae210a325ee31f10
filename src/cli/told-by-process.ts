import { type ChildProcess, spawn } from 'node:child_process';
import { messageOf } from '../errors.js';

/**
 * A record that another process keeps, since to write it may hang: it is handed over bit by bit, and nobody waits for that
 * before the end of the run, and then only as long as it gets on.
 */
export interface Told<Item> {
  readonly add: (item: Item) => void;
  /** All that was added is out, or cannot be. Never rejects. */
  readonly close: () => Promise<void>;
}

export interface Delivery {
  readonly command: string;
  readonly args: readonly string[];
  /** For its stdin. */
  readonly input: string;
}

/** How long one delivery may take, in milliseconds. */
const DEADLINE_MS = 2_000;

/**
 * `delivery` makes the next one of all that waits, from which it takes what goes with it. `failed` is told of each that
 * fails; after one that hangs no more is tried.
 */
export function toldByProcess<Item>(
  delivery: (waiting: [Item, ...Item[]]) => Delivery,
  failed: (why: string) => void,
  deadlineMs = DEADLINE_MS,
): Told<Item> {
  const waiting: Item[] = [];
  let hung = false;
  let current: Promise<void> | null = null;
  const drain = async (): Promise<void> => {
    while (hasSome(waiting) && !hung) {
      const ended = await deliver(delivery(waiting), deadlineMs);
      if (ended.why !== null) failed(ended.why);
      hung = ended.hangs;
    }
    current = null;
  };
  return {
    add: (item) => {
      if (hung) return;
      waiting.push(item);
      current ??= drain();
    },
    close: async () => {
      await current;
    },
  };
}

function hasSome<Item>(items: Item[]): items is [Item, ...Item[]] {
  return items.length > 0;
}

interface Ended {
  readonly why: string | null;
  readonly hangs: boolean;
}

function deliver({ command, args, input }: Delivery, deadlineMs: number): Promise<Ended> {
  return new Promise<Ended>((resolve) => {
    const child: ChildProcess = spawn(command, args, { stdio: ['pipe', 'ignore', 'pipe'] });
    const end = (why: string | null, hangs = false): void => {
      clearTimeout(timer);
      resolve({ why, hangs });
    };
    const timer = setTimeout(() => {
      // A call that nothing interrupts outlives SIGKILL: such a process is left alone, and holds nothing of ours.
      child.kill('SIGKILL');
      child.stdin?.destroy();
      child.stderr?.destroy();
      child.unref();
      end(`${command} did not end within ${deadlineMs / 1000} s`, true);
    }, deadlineMs);
    let words = '';
    child.stderr?.on('data', (chunk: Buffer) => (words += chunk.toString()));
    child.once('error', (error) => end(error.message));
    child.once('close', (code, signal) =>
      end(code === 0 ? null : words.trim() || `${command} ended with ${code ?? signal}`),
    );
    // It may end without having read: its exit code tells.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(input);
  }).catch((error: unknown) => ({ why: messageOf(error), hangs: false }));
}
