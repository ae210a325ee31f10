import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from './builders.js';
import { run } from './lab/programs.js';
import { type EncodedRecord, encodeStream, lz4Frame } from './stream-encoder.js';

/**
 * The folder that virtnbdbackup would have written of a real disk, which is written to, zeroed and discarded between the
 * backups; beside it a flat copy of the disk at each of them.
 */
const CLUSTER = 65_536;

export interface Area {
  readonly offset: number;
  readonly length: number;
}

export interface Change extends Area {
  /** A byte to write; `zero` and `discard` as a guest does them. */
  readonly what: number | 'zero' | 'discard';
}

export interface DiskOptions {
  readonly size?: number;
  readonly lz4?: boolean;
  /** Leaves areas that read as zeros out of increments, as versions 2.21 and later do. */
  readonly leavesZerosOut?: boolean;
}

/** One disk of the VM and the streams made of it. */
export class BackedUpDisk {
  readonly #image: string;
  #dirty: Area[] = [];

  constructor(
    readonly root: string,
    readonly disk: string,
    readonly options: DiskOptions = {},
  ) {
    this.#image = join(root, `${disk}.qcow2`);
  }

  get size(): number {
    return this.options.size ?? 16 * MiB;
  }

  /** The folder of the streams. */
  get folder(): string {
    return join(this.root, 'streams');
  }

  flat(name: string): string {
    return join(this.root, `${this.disk}.${name}.raw`);
  }

  async create(): Promise<this> {
    await mkdir(this.folder, { recursive: true });
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', this.#image, String(this.size)]);
    return this;
  }

  async change(...changes: readonly Change[]): Promise<void> {
    const commands = changes.flatMap(({ what, offset, length }) => ['-c', commandOf(what, offset, length)]);
    await run('qemu-io', ['-f', 'qcow2', '-d', 'unmap', ...commands, this.#image]);
    this.#dirty.push(...changes);
  }

  /** `<disk>.full.data`, or of another level; returns the path of the flat copy. */
  async full(
    checkpoint = 'virtnbdbackup.0',
    date = '2024-11-20T10:00:00.1',
    level: 'full' | 'copy' = 'full',
  ): Promise<string> {
    const records = recordsOf(await this.#flatten(level), [{ offset: 0, length: this.size }]);
    const bytes = encodeStream({ ...this.#common(), checkpoint, date, records });
    await writeFile(join(this.folder, `${this.disk}.${level}.data`), bytes);
    if (level === 'full') this.#dirty = [];
    return this.flat(level);
  }

  async inc(checkpoint: string, parent: string, date: string): Promise<string> {
    return this.#increment(`inc.${checkpoint}`, checkpoint, parent, date, true);
  }

  /** What has changed since `parent` goes on being tracked. */
  async diff(seconds: number, parent: string, date: string): Promise<string> {
    return this.#increment(`diff.${seconds}`, `${parent}x`, parent, date, false);
  }

  async #increment(name: string, checkpoint: string, parent: string, date: string, step: boolean): Promise<string> {
    const all = recordsOf(await this.#flatten(name), clustersOf(this.#dirty, this.size));
    // Increments have no records of zeros, whatever the version: zeros are data, or left out.
    const records = this.options.leavesZerosOut ? all.filter(({ kind }) => kind === 'data') : all.map(asData);
    const bytes = encodeStream({ ...this.#common(), checkpoint, parent, date, incremental: true, records });
    await writeFile(join(this.folder, `${this.disk}.${name}.data`), bytes);
    if (step) this.#dirty = [];
    return this.flat(name);
  }

  #common() {
    return {
      disk: this.disk,
      virtualSize: this.size,
      ...(this.options.lz4 ? { frame: lz4Frame, maxRequest: 2 * MiB } : {}),
    };
  }

  async #flatten(name: string): Promise<Buffer> {
    await run('qemu-img', ['convert', '-O', 'raw', this.#image, this.flat(name)]);
    const handle = await open(this.flat(name));
    try {
      return await handle.readFile();
    } finally {
      await handle.close();
    }
  }
}

function commandOf(what: Change['what'], offset: number, length: number): string {
  if (what === 'discard') return `discard ${offset} ${length}`;
  return what === 'zero' ? `write -z ${offset} ${length}` : `write -P ${what} ${offset} ${length}`;
}

/** As a dirty bitmap has them: whole clusters, neighbours as one. */
function clustersOf(areas: readonly Area[], size: number): readonly Area[] {
  const dirty = new Set<number>();
  for (const { offset, length } of areas) {
    for (let at = Math.floor(offset / CLUSTER); at * CLUSTER < offset + length; at += 1) dirty.add(at);
  }
  return joined(
    [...dirty]
      .toSorted((a, b) => a - b)
      .map((at) => ({ offset: at * CLUSTER, length: Math.min(CLUSTER, size - at * CLUSTER) })),
  );
}

function joined(areas: readonly Area[]): Area[] {
  const result: Area[] = [];
  for (const { offset, length } of areas) {
    const last = result.at(-1);
    if (last && last.offset + last.length === offset)
      result.splice(-1, 1, { offset: last.offset, length: last.length + length });
    else result.push({ offset, length });
  }
  return result;
}

function recordsOf(content: Buffer, areas: readonly Area[]): readonly EncodedRecord[] {
  const records: { kind: 'data' | 'zero'; offset: number; length: number }[] = [];
  for (const { offset, length } of areas) {
    for (let at = offset; at < offset + length; at += CLUSTER) {
      const part = Math.min(CLUSTER, offset + length - at);
      const kind = content.subarray(at, at + part).every((byte) => byte === 0) ? 'zero' : 'data';
      const last = records.at(-1);
      if (last?.kind === kind && last.offset + last.length === at) last.length += part;
      else records.push({ kind, offset: at, length: part });
    }
  }
  return records.map(({ kind, offset, length }) =>
    kind === 'zero' ? { kind, offset, length } : { kind, offset, bytes: content.subarray(offset, offset + length) },
  );
}

function asData(record: EncodedRecord): EncodedRecord {
  return record.kind === 'data'
    ? record
    : { kind: 'data', offset: record.offset, bytes: new Uint8Array(record.length) };
}
