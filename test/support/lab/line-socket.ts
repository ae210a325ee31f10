/**
 * JSON lines over a unix socket, for the lab's own calls to a guest agent. Independent of src/guest-agent on purpose:
 * what checks the tool must not share its faults.
 */
import { connect, type Socket } from 'node:net';

export type JsonObject = Readonly<Record<string, unknown>>;

export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export class LineSocket {
  readonly #socket: Socket;
  readonly #lines: string[] = [];
  #rest = '';
  #ended: Error | undefined;
  #wake: (() => void) | undefined;

  private constructor(socket: Socket, path: string) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', (chunk: string) => {
      const parts = (this.#rest + chunk).split('\n');
      this.#rest = parts.pop() ?? '';
      this.#lines.push(...parts);
      this.#wake?.();
    });
    socket.on('error', (error) => this.#end(new Error(`${path}: ${error.message}`, { cause: error })));
    socket.on('close', () => this.#end(new Error(`${path}: the connection was closed`)));
  }

  static async connect(path: string): Promise<LineSocket> {
    return new LineSocket(await openSocket(path), path);
  }

  write(text: string | Buffer): void {
    this.#socket.write(text);
  }

  /** The next line. Rejects when the connection ends or after `deadlineMs`. One caller at a time. */
  async readLine(deadlineMs: number): Promise<string> {
    const until = Date.now() + deadlineMs;
    for (;;) {
      const line = this.#lines.shift();
      if (line !== undefined) return line;
      if (this.#ended) throw this.#ended;
      const left = until - Date.now();
      if (left <= 0) throw new Error(`no answer within ${deadlineMs} ms`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  close(): void {
    this.#socket.destroy();
  }

  #end(reason: Error): void {
    this.#ended ??= reason;
    this.#wake?.();
  }
}

export function openSocket(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.removeListener('error', reject);
      resolve(socket);
    });
    socket.once('error', reject);
  });
}
