/** What a process has printed so far, and waiting for what it prints next. */
import type { Readable } from 'node:stream';

export class Output {
  #text = '';
  #ended = false;
  readonly #waiters = new Set<() => void>();

  constructor(stream: Readable) {
    stream.setEncoding('utf8');
    stream.on('data', (chunk: string) => {
      this.#text += chunk;
      this.#wake();
    });
    stream.on('close', () => {
      this.#ended = true;
      this.#wake();
    });
  }

  get length(): number {
    return this.#text.length;
  }

  toString(): string {
    return this.#text;
  }

  /** The text from `start` on, as soon as `enough` is content with it. */
  waitFor(start: number, enough: (seen: string) => boolean, deadlineMs: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        clearTimeout(timer);
        this.#waiters.delete(look);
      };
      const look = (): void => {
        const seen = this.#text.slice(start);
        if (enough(seen)) {
          finish();
          resolve(seen);
        } else if (this.#ended) {
          finish();
          reject(new Error(`the process ended; its output was: ${seen}`));
        }
      };
      const timer = setTimeout(() => {
        finish();
        reject(new Error(`not printed within ${deadlineMs} ms; the output was: ${this.#text.slice(start)}`));
      }, deadlineMs);
      this.#waiters.add(look);
      look();
    });
  }

  #wake(): void {
    for (const look of [...this.#waiters]) look();
  }
}
