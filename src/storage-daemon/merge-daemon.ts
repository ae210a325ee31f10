import { join } from 'node:path';
import { fileNode } from '../core/block-node.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { NbdSource } from '../core/nbd-address.js';
import { run } from '../qmp/commands.js';
import { addChain } from './chain-graph.js';
import { startStorageDaemon, type StorageDaemon } from './daemon.js';

/** A storage daemon that has increments open, and an image into which they are merged: it keeps track of which bytes of the file change. */
export interface MergeDaemon {
  /** What each slice of the increments holds together, and nothing below it. */
  readonly slices: readonly NbdSource[];
  /** The disk, for writing; zeros that are written take no space. */
  readonly into: NbdSource;
  /** Closes the image. What it has written into its file is in storage then, as far as the kernel was told. */
  readonly finish: () => Promise<MergedImage>;
  /** All is gone afterwards. */
  readonly close: () => Promise<void>;
}

export interface MergedImage {
  /** The file, byte for byte, with the bitmap of what was written into it, in steps of 64 KiB. */
  readonly file: NbdSource & { readonly bitmap: string };
  /** Opens the image again, for reading; call it once. */
  readonly reopen: () => Promise<NbdSource>;
}

export interface MergeFiles {
  /** Absolute paths, oldest first, of each slice. */
  readonly slices: readonly (readonly string[])[];
  /** Absolute path of an image that builds on nothing. */
  readonly into: string;
}

export interface MergeDaemonOptions {
  /** What it is for, for people. */
  readonly what: string;
  readonly signal: AbortSignal;
}

const [FILE, INTO, MERGED, WRITTEN] = ['file', 'into', 'merged', 'written'] as const;

/** What each file may keep of its tables, in bytes. */
const CACHE = 1024 * 1024;

/** @throws QmpBackupError `failed` in the daemon's words; the signal's reason */
export async function startMergeDaemon(files: MergeFiles, options: MergeDaemonOptions): Promise<MergeDaemon> {
  const { signal } = options;
  const daemon = await startStorageDaemon(options);
  try {
    const { qmp, folder } = daemon;
    const path = join(folder, 'nbd');
    await run(qmp, 'nbd-server-start', { addr: { type: 'unix', data: { path } } }, { signal });
    const sourceOf = (exportName: string): NbdSource => ({ address: { kind: 'unix', path }, exportName });
    const names: string[] = [];
    for (const [index, paths] of files.slices.entries()) {
      const name = `slice${index}`;
      const node = await addChain(daemon, name, paths, CACHE, null, signal);
      await exportNode(daemon, name, node, {}, signal);
      names.push(name);
    }
    await openImage(daemon, files.into, signal);
    return {
      slices: names.map(sourceOf),
      into: sourceOf(INTO),
      finish: async () => {
        await closeImage(daemon, signal);
        // One that goes on recording is not exported for reading.
        await run(qmp, 'block-dirty-bitmap-disable', { node: FILE, name: WRITTEN }, { signal });
        await exportNode(daemon, FILE, FILE, { bitmaps: [WRITTEN] }, signal);
        return {
          file: { ...sourceOf(FILE), bitmap: WRITTEN },
          reopen: async () => {
            const image = { driver: 'qcow2', 'node-name': MERGED, file: FILE, backing: null, 'read-only': true };
            await run(qmp, 'blockdev-add', image, { signal });
            await exportNode(daemon, MERGED, MERGED, {}, signal);
            return sourceOf(MERGED);
          },
        };
      },
      close: () => daemon.close(),
    };
  } catch (error) {
    await daemon.close();
    throw error;
  }
}

interface ExportOptions {
  readonly writable?: boolean;
  readonly bitmaps?: readonly string[];
}

async function exportNode(
  { qmp }: StorageDaemon,
  name: string,
  node: string,
  { writable = false, ...options }: ExportOptions,
  signal: AbortSignal,
): Promise<void> {
  const args = { type: 'nbd', id: name, 'node-name': node, name, writable, ...options } as const;
  await run(qmp, 'block-export-add', args, { signal });
}

async function openImage(daemon: StorageDaemon, path: string, signal: AbortSignal): Promise<void> {
  const { qmp } = daemon;
  const unmap = { discard: 'unmap' };
  await run(qmp, 'blockdev-add', { ...fileNode(path), 'node-name': FILE, ...unmap }, { signal });
  await run(qmp, 'block-dirty-bitmap-add', { node: FILE, name: WRITTEN, granularity: IMAGE_CLUSTER }, { signal });
  const zeros = { ...unmap, 'detect-zeroes': 'unmap' };
  await run(
    qmp,
    'blockdev-add',
    { driver: 'qcow2', 'node-name': INTO, file: FILE, backing: null, ...zeros },
    { signal },
  );
  await exportNode(daemon, INTO, INTO, { writable: true }, signal);
}

/** Its tables are written as its node goes, which it can once its export has: that is told by an event. */
async function closeImage({ qmp }: StorageDaemon, signal: AbortSignal): Promise<void> {
  const events = qmp.events(['BLOCK_EXPORT_DELETED']);
  try {
    await run(qmp, 'block-export-del', { id: INTO, mode: 'hard' }, { signal });
    await events.next({ signal });
  } finally {
    events.close();
  }
  await run(qmp, 'blockdev-del', { 'node-name': INTO }, { signal, timeoutMs: Infinity });
}
