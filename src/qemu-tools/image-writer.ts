import { randomBytes } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BlockNodeSpec, nameOfNode } from '../core/block-node.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { FIRST_FILE, type Program, type ProgramEnd, startProgram } from '../host/program.js';
import { untoldErrors } from './errors-on-success.js';

/**
 * Writes into the last of a line of qcow2 files, by qemu-io: what a write does not fill of a cluster comes from the files
 * below, and zeros hide them. Data that is all zeros becomes zeros.
 */
export interface DiskSink {
  /** Bytes; what is written in order is put together. `bytes` may be used again once this has returned. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  zero(offset: number, length: number): Promise<void>;
  /** All that was written is in the file, though not flushed to its disk. */
  finish(): Promise<void>;
  /** Lets go of the file, whatever became of it. */
  close(): Promise<void>;
}

/** Bytes that are written at once, and never across a multiple of it. */
const PIECE = 2 * 1024 * 1024;
/** qemu-io takes less than 2 GiB in one request. */
const ZERO_PIECE = 1024 * 1024 * 1024;
const PROMPT = 'qemu-io> ';

/**
 * `node` describes the image with all that it builds on; its file names are relative to `cwd`.
 *
 * @throws QmpBackupError `failed`, in qemu-io's own words
 */
export async function openSink(
  node: BlockNodeSpec,
  { cwd, signal }: { readonly cwd: string; readonly signal: AbortSignal },
): Promise<DiskSink> {
  const piece = await nameless();
  const output: Output = { said: '', wake: () => undefined };
  const program = await startProgram('qemu-io', ['-t', 'unsafe', nameOfNode(node)], {
    ...{ cwd, signal, stdin: 'pipe', files: [piece] },
    onStdout: (text) => {
      output.said += text;
      output.wake();
    },
  });
  const writer = new QemuIo(piece, program, output, signal);
  try {
    await writer.ready();
    return writer;
  } catch (error) {
    await writer.close();
    throw error;
  }
}

/** A file that no crash leaves behind: it has no name. qemu-io reads from it what it shall write. */
async function nameless(): Promise<FileHandle> {
  const path = join(tmpdir(), `qmpbackup-${randomBytes(8).toString('hex')}`);
  try {
    const handle = await open(path, 'wx+', 0o600);
    await unlink(path);
    return handle;
  } catch (error) {
    throw new QmpBackupError('failed', `no temporary file can be made: ${messageOf(error)}`, {
      cause: error,
      hint: 'Set TMPDIR to a folder that this user can write to.',
    });
  }
}

/** What qemu-io has printed and nobody has read, and who waits for more. */
interface Output {
  said: string;
  wake: () => void;
}

class QemuIo implements DiskSink {
  readonly #piece: FileHandle;
  readonly #program: Program;
  readonly #output: Output;
  readonly #buffer = Buffer.allocUnsafeSlow(PIECE);
  #start = 0;
  #length = 0;
  #ended: Error | undefined;

  constructor(piece: FileHandle, program: Program, output: Output, signal: AbortSignal) {
    this.#piece = piece;
    this.#program = program;
    this.#output = output;
    void program.ended.then((end) => {
      this.#ended = signal.aborted ? (signal.reason as Error) : this.#whyEnded(end);
      output.wake();
    });
  }

  /** Until it has opened the image. */
  async ready(): Promise<void> {
    await this.#answer();
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const at = offset + done;
      if (this.#length > 0 && at !== this.#start + this.#length) await this.#flush();
      if (this.#length === 0) this.#start = at;
      const room = PIECE - (at % PIECE);
      const part = bytes.subarray(done, done + Math.min(room, PIECE - this.#length));
      this.#buffer.set(part, this.#length);
      this.#length += part.length;
      done += part.length;
      if (part.length === room || this.#length === PIECE) await this.#flush();
    }
  }

  async zero(offset: number, length: number): Promise<void> {
    await this.#flush();
    for (let at = offset; at < offset + length;) {
      const part = Math.min(offset + length - at, ZERO_PIECE - (at % ZERO_PIECE));
      await this.#command('write -z', at, part);
      at += part;
    }
  }

  async finish(): Promise<void> {
    await this.#flush();
    // What its caches hold: where that fails only when the image is closed, qemu-io ends with 0 all the same (7.2).
    this.#program.tell('flush\n');
    const answer = (await this.#answer()).trim();
    if (answer !== '') throw failed(answer);
    this.#program.tell('quit\n');
    const { exitCode, stderr } = await this.#program.ended;
    if (exitCode !== 0) throw this.#ended ?? failed('it ended');
    if (untoldErrors(stderr) !== null) throw failed(this.#words());
  }

  async close(): Promise<void> {
    await this.#program.kill();
    await this.#piece.close();
  }

  async #flush(): Promise<void> {
    if (this.#length === 0) return;
    const length = this.#length;
    this.#length = 0;
    await this.#piece.write(this.#buffer, 0, length, 0);
    await this.#command(`write -s /proc/self/fd/${FIRST_FILE}`, this.#start, length);
  }

  async #command(command: string, offset: number, length: number): Promise<void> {
    this.#program.tell(`${command} ${offset} ${length}\n`);
    const answer = await this.#answer();
    if (answer.includes(`wrote ${length}/${length} bytes at offset ${offset}\n`)) return;
    const words = answer.trim().split('\n')[0] ?? '';
    throw failed(words === '' ? this.#words() || 'it said nothing' : words);
  }

  /** What it says until it asks for the next command. */
  async #answer(): Promise<string> {
    for (;;) {
      const end = this.#output.said.indexOf(PROMPT);
      if (end >= 0) {
        const answer = this.#output.said.slice(0, end);
        this.#output.said = this.#output.said.slice(end + PROMPT.length);
        return answer;
      }
      if (this.#ended) throw this.#ended;
      await new Promise<void>((resolve) => {
        this.#output.wake = resolve;
      });
    }
  }

  #whyEnded({ failure }: ProgramEnd): QmpBackupError {
    return failure === null ? failed(this.#words() || 'it ended') : notStarted(failure);
  }

  #words(): string {
    return `${this.#program.stderr()}${this.#output.said}`
      .replace(/^qemu-io: /gm, '')
      .trim()
      .slice(0, 1000);
  }
}

function notStarted(cause: Error): QmpBackupError {
  return new QmpBackupError('failed', `qemu-io was not started: ${cause.message}`, {
    cause,
    hint: 'Install it: apt install qemu-utils',
  });
}

function failed(why: string): QmpBackupError {
  return new QmpBackupError('failed', `qemu-io failed: ${why}`);
}
