import { resolve } from 'node:path';
import { type BlockNodeSpec, nbdNode } from '../core/block-node.js';
import type { NbdAddress, NbdSource } from '../core/nbd-address.js';
import type { Window } from '../core/sample-windows.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { mostOpenFiles } from '../host/open-files.js';
import { run } from '../qmp/commands.js';
import { addChain, addOverlay } from './chain-graph.js';
import { type FuseMount, mountDisks, type Mountpoint } from './fuse-mount.js';
import { type DaemonOwner, startStorageDaemon, type StorageDaemon } from './daemon.js';

/**
 * The one way to the bytes of a point: a storage daemon of ours holds the chains of all its disks, as `openPoint` tells
 * them. Whoever opens it has refused what is wrong with them (`refuseFindings`): the headers are checked.
 */
export interface BytesOptions {
  /** What they are opened for, for people. */
  readonly what: string;
  /** With whom they end; without, with this process. */
  readonly owner?: DaemonOwner | undefined;
  readonly signal: AbortSignal;
}

export interface ChainOfDisk {
  readonly disk: string;
  /** Absolute paths, FULL first. */
  readonly paths: readonly string[];
  /** What they are above: a disk that somebody serves. */
  readonly below?: NbdSource;
  /** Absolute path of an image that takes what is written; without, the disk is read-only. */
  readonly overlay?: string | undefined;
}

export interface OpenBytes {
  /** Settles when a daemon has ended, with what it has said. */
  readonly ended: Promise<QmpBackupError>;
  /** Serves every disk under its id: at this TCP port of 127.0.0.1, or on a socket at this path, meant from a private folder. */
  readonly serveNbd: (at?: number | string | null) => Promise<NbdAddress>;
  /** Every disk as a read-only raw file, `<disk>.raw`. */
  readonly serveFuse: (mountpoint: Mountpoint) => Promise<FuseMount>;
  /** A part of a disk as a node of its own, for `addFile`. */
  readonly addWindow: (disk: string, window: Window) => Promise<string>;
  /** Absolute; of each daemon. */
  readonly folders: readonly string[];
  /** Leaves them to their owner. */
  readonly leave: () => Promise<void>;
  /** All is gone afterwards. Harmless once it was called. */
  readonly close: () => Promise<void>;
}

/**
 * The most files of a disk in one daemon. A read of what only the oldest holds goes down file by file within one stack of 1 MiB,
 * which ended the daemon at 900 (QEMU 10.0; 7.2: 1100). Older files are served by a daemon below: none can be its own client.
 */
const FILES_IN_DAEMON = 500;

/**
 * What all files of a daemon may keep of their tables. Each would keep 32 MiB of a large disk, and each increment of such a disk may
 * have as much: 16 GiB for 500 of them. Bytes, as are those that a file has at most and at least.
 */
const ALL_CACHES = 1024 * 1024 * 1024;
const [MOST_CACHE, LEAST_CACHE] = [32 * 1024 * 1024, 1024 * 1024];

function cacheOfEach(files: number): number {
  return Math.max(LEAST_CACHE, Math.min(MOST_CACHE, Math.floor(ALL_CACHES / files)));
}

/** What a daemon has open beside them: sockets, clients, eventfds. */
const OTHER_FILES = 200;

/** So that all of the disks are not more than a process may have open; of many disks few files each are. */
function filesInDaemon(disks: number): number {
  const most = Math.floor((mostOpenFiles() - OTHER_FILES) / disks);
  return Math.max(1, Math.min(FILES_IN_DAEMON, most));
}

/** @throws QmpBackupError `failed` in the daemon's words; the signal's reason */
export async function openBytes(disks: readonly ChainOfDisk[], options: BytesOptions): Promise<OpenBytes> {
  const { signal } = options;
  const most = filesInDaemon(disks.length);
  const longer = disks.filter(({ paths }) => paths.length > most);
  const older = longer.map(({ disk, paths }) => ({ disk, paths: paths.slice(0, -most) }));
  const below = older.length > 0 ? await openBytes(older, options) : null;
  try {
    const address = await below?.serveNbd();
    const daemon = await startStorageDaemon(options);
    try {
      const cacheBytes = cacheOfEach(disks.reduce((sum, { paths }) => sum + Math.min(paths.length, most), 0));
      const nodes: OpenNode[] = [];
      const ending = new AbortController();
      for (const [index, each] of disks.entries()) {
        const isLong = address !== undefined && each.paths.length > most;
        const below = isLong ? { address, exportName: each.disk } : each.below;
        const node = below ? nbdNode(below) : null;
        const newest = { ...each, paths: each.paths.slice(-most), cacheBytes };
        nodes.push(await openDisk(daemon, `disk${index}`, newest, node, signal));
      }
      return {
        ended: Promise.race([daemon.ended, ...(below ? [below.ended] : [])]),
        serveNbd: (at) => serveNbd(daemon, nodes, at ?? 'nbd', signal),
        serveFuse: (mountpoint) => mountDisks(daemon, nodes, mountpoint, { signal, ending: ending.signal }),
        addWindow: (disk, window) => addWindow(daemon, nodes, disk, window, signal),
        folders: [daemon.folder, ...(below?.folders ?? [])],
        leave: async () => {
          await daemon.qmp.close();
          await below?.leave();
        },
        close: async () => {
          ending.abort();
          await daemon.close();
          await below?.close();
        },
      };
    } catch (error) {
      await daemon.close();
      throw error;
    }
  } catch (error) {
    await below?.close();
    throw error;
  }
}

interface OpenNode {
  readonly disk: string;
  readonly node: string;
  readonly writable: boolean;
}

async function openDisk(
  daemon: StorageDaemon,
  name: string,
  { disk, paths, overlay, cacheBytes }: ChainOfDisk & { readonly cacheBytes: number },
  below: BlockNodeSpec | null,
  signal: AbortSignal,
): Promise<OpenNode> {
  const top = await addChain(daemon, name, paths, cacheBytes, below, signal);
  if (overlay === undefined) return { disk, node: top, writable: false };
  const node = `${name}-overlay`;
  await addOverlay(daemon, node, overlay, top, signal);
  return { disk, node, writable: true };
}

async function addWindow(
  { qmp }: StorageDaemon,
  nodes: readonly OpenNode[],
  disk: string,
  { offset, length }: Window,
  signal: AbortSignal,
): Promise<string> {
  const below = nodes.find((each) => each.disk === disk);
  if (!below) throw new Error(`disk ${disk} is not open`);
  const node = `${below.node}-at-${offset}`;
  const spec = { driver: 'raw', offset, size: length, file: below.node, 'read-only': !below.writable };
  await run(qmp, 'blockdev-add', { ...spec, 'node-name': node }, { signal });
  return node;
}

/** As `OpenBytes.serveNbd` takes it. */
export function addressIn(folder: string, at: number | string): NbdAddress {
  return typeof at === 'string'
    ? { kind: 'unix', path: resolve(folder, at) }
    : { kind: 'tcp', host: '127.0.0.1', port: at };
}

async function serveNbd(
  { qmp, folder }: StorageDaemon,
  nodes: readonly OpenNode[],
  at: number | string,
  signal: AbortSignal,
): Promise<NbdAddress> {
  const address = addressIn(folder, at);
  const addr =
    address.kind === 'unix'
      ? { type: 'unix' as const, data: { path: address.path } }
      : { type: 'inet' as const, data: { host: address.host, port: `${address.port}` } };
  try {
    await run(qmp, 'nbd-server-start', { addr }, { signal });
  } catch (error) {
    signal.throwIfAborted();
    throw new QmpBackupError('failed', `it cannot be served: ${messageOf(error)}`, {
      cause: error,
      ...(typeof at === 'string' ? {} : { hint: 'Choose another port.' }),
    });
  }
  for (const [index, { disk, node, writable }] of nodes.entries()) {
    const args = { type: 'nbd' as const, id: `nbd${index}`, 'node-name': node, name: disk, writable };
    await run(qmp, 'block-export-add', args, { signal });
  }
  return address;
}
