import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Worker } from 'node:worker_threads';
import type { DigestMethod } from '../core/pieces.js';
import { QmpBackupError } from '../errors.js';
import { codeOf } from './file-errors.js';
import { GMAC_KEY, newHasher } from './hasher.js';

/** Digests by threads, one for each processor: a processor makes SHA-256 of 0.4 to 1.5 GB/s, less than storage of today reads. */

/** A range of a file that is open: `fd`; bytes. */
export interface HashTask {
  readonly fd: number;
  readonly start: number;
  readonly length: number;
  readonly method: DigestMethod;
}

type HashAnswer = { readonly digest: string } | { readonly message: string; readonly code: string | undefined };

/** Of the range, in hexadecimal; of less than `length` where the file ends before. Rejects with the error of the read. */
export type HashRange = (task: HashTask) => Promise<string>;

/** More would take memory (13 MiB each) and processors from the guests, and few storages read faster. */
const MOST_THREADS = 4;

export const HASH_THREADS = Math.min(availableParallelism(), MOST_THREADS);

/**
 * Whether this process may have threads at all: where its address space is limited (`ulimit -v`), V8 ends the whole process for
 * a thread that finds no room in it (Node 20).
 */
export function mayHaveThreads(): boolean {
  try {
    return !/^Max address space +\d/m.test(readFileSync('/proc/self/limits', 'latin1'));
  } catch (error) {
    if (codeOf(error) === undefined) throw error;
    return true;
  }
}

/** Those of this process, shared by who hashes at the same time. */
let shared: HashThreads | undefined;
let users = 0;

/** Threads start as they are needed, and are there while any body runs. A body may only end when its tasks have. */
export async function withHashThreads<T>(body: (hash: HashRange) => Promise<T>): Promise<T> {
  shared ??= new HashThreads();
  const threads = shared;
  users += 1;
  try {
    return await body((task) => threads.hash(task));
  } finally {
    users -= 1;
    if (users === 0) {
      shared = undefined;
      await threads.end();
    }
  }
}

/**
 * What each thread runs. It gets there as its own text, so that it is found wherever this file is: as source, as module or in a
 * bundle. So it may use nothing from outside of it but what it is given, as text too.
 */
function thread(hasherOf: typeof newHasher, key: string): void {
  const crypto = process.getBuiltinModule('node:crypto');
  const { readSync } = process.getBuiltinModule('node:fs');
  const { parentPort } = process.getBuiltinModule('node:worker_threads');
  // Stays in the processor's cache between the read and the digest: with larger ones it takes 5 to 10 % longer.
  const buffer = Buffer.allocUnsafeSlow(64 * 1024);

  const digestOf = ({ fd, start, length, method }: HashTask): string => {
    const hash = hasherOf(method, crypto, key);
    for (let done = 0, read = 1; done < length && read > 0; done += read) {
      read = readSync(fd, buffer, 0, Math.min(length - done, buffer.length), start + done);
      hash.update(buffer.subarray(0, read));
    }
    return hash.digest();
  };
  const answerTo = (task: HashTask): HashAnswer => {
    try {
      return { digest: digestOf(task) };
    } catch (error) {
      // An error loses its code on the way to another thread.
      const { message, code } = error as NodeJS.ErrnoException;
      return { message, code };
    }
  };
  parentPort?.on('message', (task: HashTask) => parentPort.postMessage(answerTo(task)));
}

const TEXT = `(${thread.toString()})(${newHasher.toString()}, ${JSON.stringify(GMAC_KEY)})`;

interface Waiting {
  readonly task: HashTask;
  readonly resolve: (digest: string) => void;
  readonly reject: (error: Error) => void;
}

class HashThreads {
  readonly #queue: Waiting[] = [];
  readonly #idle: Worker[] = [];
  readonly #busy = new Map<Worker, Waiting>();
  /** Fewer once this user can have no more. */
  #most = HASH_THREADS;
  #broken: QmpBackupError | undefined;

  hash(task: HashTask): Promise<string> {
    return new Promise((resolve, reject) => {
      if (this.#broken) return reject(this.#broken);
      this.#queue.push({ task, resolve, reject });
      this.#next();
    });
  }

  async end(): Promise<void> {
    await Promise.all([...this.#idle, ...this.#busy.keys()].map((worker) => worker.terminate()));
  }

  #start(): void {
    const worker = this.#newThread();
    if (!worker) return;
    worker.on('message', (answer: HashAnswer) => {
      const waiting = this.#busy.get(worker);
      this.#busy.delete(worker);
      this.#idle.push(worker);
      if ('digest' in answer) waiting?.resolve(answer.digest);
      else waiting?.reject(Object.assign(new Error(answer.message), { code: answer.code }));
      this.#next();
    });
    worker.on('error', (error) => this.#fail(error));
    this.#idle.push(worker);
  }

  /** Undefined where the user can have no more: then those that run do it all. */
  #newThread(): Worker | undefined {
    const { Worker } = process.getBuiltinModule('node:worker_threads');
    try {
      return new Worker(TEXT, { eval: true, execArgv: [], env: {} });
    } catch (error) {
      this.#most = this.#busy.size;
      if (this.#most === 0) this.#fail(error as Error);
      return undefined;
    }
  }

  #next(): void {
    while (this.#queue.length > 0) {
      if (this.#idle.length === 0 && this.#busy.size < this.#most) this.#start();
      const worker = this.#idle.pop();
      if (!worker) return;
      const waiting = this.#queue.shift();
      if (!waiting) return;
      this.#busy.set(worker, waiting);
      worker.postMessage(waiting.task);
    }
  }

  /** A thread that cannot be started, for want of memory or by a limit of the user's processes. */
  #fail(error: Error): void {
    this.#broken ??= new QmpBackupError('failed', `a thread for digests has failed: ${error.message}`, {
      hint: 'Give this user more memory or more processes (ulimit -u), or leave digests out with --no-digest.',
      cause: error,
    });
    const waiting = [...this.#busy.values(), ...this.#queue.splice(0)];
    this.#busy.clear();
    for (const each of waiting) each.reject(this.#broken);
  }
}
