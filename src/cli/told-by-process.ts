import { messageOf } from '../errors.js';
import { runProgram } from '../host/program.js';

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

async function deliver({ command, args, input }: Delivery, timeoutMs: number): Promise<Ended> {
  try {
    const delivery = { stdin: { text: input }, onStdout: () => undefined, env: process.env, timeoutMs };
    const { exitCode, signal, stderr, failure, late } = await runProgram(command, args, delivery);
    if (late) return { why: `${command} did not end within ${timeoutMs / 1000} s`, hangs: true };
    if (failure !== null) return { why: failure.message, hangs: false };
    const why = exitCode === 0 ? null : stderr.trim() || `${command} ended with ${exitCode ?? signal}`;
    return { why, hangs: false };
  } catch (error) {
    return { why: messageOf(error), hangs: false };
  }
}
