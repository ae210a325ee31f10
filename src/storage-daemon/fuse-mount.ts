import { mkdir, readdir, realpath, writeFile } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { inspectProcess } from '../host/lock-owner.js';
import { fuseMounts } from '../host/mounts.js';
import { FUSE3_HINT } from '../host/unmount.js';
import { run } from '../qmp/commands.js';
import type { StorageDaemon } from './daemon.js';
import { clearFile, findMount, identityOfFolder, type MountRecord, recordMount } from './mount-record.js';

/** Disks as files: each a mount of the daemon's over an empty file, in a folder that holds nothing else. */
export interface Mountpoint {
  /** Absolute and real. */
  readonly path: string;
  /** It is not there yet. */
  readonly missing: boolean;
}

export interface FuseMount {
  readonly files: readonly MountedFile[];
  /** One more file, of any node, which may be written to; gives its path. */
  readonly addFile: (name: string, node: string) => Promise<string>;
  /** Resolves when somebody else has unmounted the last of them. */
  readonly unmounted: Promise<void>;
}

export interface MountedFile {
  readonly disk: string;
  /** Absolute. */
  readonly path: string;
}

/** @throws QmpBackupError `unsafe` for what is no empty folder, and cannot be made one by one `mkdir` */
export async function chooseMountpoint(named: string): Promise<Mountpoint> {
  const path = resolve(named);
  const hint = 'Give an empty folder, or one that is not there yet: it is made, and removed in the end.';
  try {
    const entries = await readdir(path);
    if (entries.length === 0) return { path: await realpath(path), missing: false };
    throw new QmpBackupError('unsafe', `${path} is not empty: there is ${JSON.stringify(entries[0])}`, { hint });
  } catch (error) {
    if (error instanceof QmpBackupError) throw error;
    if (codeOf(error) !== 'ENOENT') {
      throw new QmpBackupError('unsafe', `${path} cannot be mounted to: ${messageOf(error)}`, { cause: error, hint });
    }
  }
  try {
    return { path: join(await realpath(dirname(path)), basename(path)), missing: true };
  } catch (error) {
    throw fileError(`make ${path} in`, dirname(path), error);
  }
}

interface ExportedNode {
  readonly disk: string;
  readonly node: string;
}

const POLL_MS = 500;

/** Until `ending` aborts, which is to come before the daemon is told to end: that undoes all of it. */
export async function mountDisks(
  daemon: StorageDaemon,
  nodes: readonly ExportedNode[],
  { path: mountpoint, missing }: Mountpoint,
  { signal, ending }: { readonly signal: AbortSignal; readonly ending: AbortSignal },
): Promise<FuseMount> {
  const files = nodes.map(({ disk }) => ({ disk, path: join(mountpoint, `${disk}.raw`) }));
  const state = inspectProcess(daemon.pid);
  let record: MountRecord = {
    ...{ mountpoint, made: missing, folder: null, files: files.map(({ path }) => ({ path, device: null })) },
    daemon: { pid: daemon.pid, startTime: typeof state === 'string' ? '' : state.startTime },
  };
  await recordMount(daemon.folder, record);
  await makeFiles(record);
  for (const [index, { node }] of nodes.entries()) {
    await exportTo(daemon, { id: idOf(index), node, path: files[index]?.path ?? '', writable: false }, signal);
  }
  const mounts = fuseMounts();
  const found = record.files.map((file) => ({ ...file, device: findMount(file, record, mounts)?.device ?? null }));
  record = { ...record, folder: identityOfFolder(mountpoint), files: found };
  await recordMount(daemon.folder, record);
  const unmounted = untilUnmounted(daemon, record, ending);
  // Whoever waits for it hears of that, too.
  unmounted.catch(() => undefined);
  const addFile = async (name: string, node: string): Promise<string> => {
    const [path, index] = [join(mountpoint, `${name}.raw`), record.files.length];
    record = { ...record, files: [...record.files, { path, device: null }] };
    await recordMount(daemon.folder, record);
    await makeFiles({ ...record, made: false, files: record.files.slice(index) });
    await exportTo(daemon, { id: idOf(index), node, path, writable: true }, signal);
    return path;
  };
  return { files, addFile, unmounted };
}

function idOf(index: number): string {
  return `fuse${index}`;
}

async function makeFiles({ mountpoint, made, files }: MountRecord): Promise<void> {
  try {
    if (made) await mkdir(mountpoint, { mode: 0o700 });
    // fusermount3 mounts only over what the user may write to.
    for (const { path } of files) await writeFile(path, '', { flag: 'wx', mode: 0o600 });
  } catch (error) {
    throw fileError('make files in', mountpoint, error);
  }
}

interface ExportedFile {
  readonly id: string;
  readonly node: string;
  readonly path: string;
  readonly writable: boolean;
}

async function exportTo(
  { qmp, words }: StorageDaemon,
  { path: mountpoint, node, ...rest }: ExportedFile,
  signal: AbortSignal,
): Promise<void> {
  try {
    await run(qmp, 'block-export-add', { type: 'fuse', 'node-name': node, mountpoint, ...rest }, { signal });
  } catch (error) {
    signal.throwIfAborted();
    // The reason is in what libfuse prints.
    const said = [messageOf(error), whyNot(words())].filter(Boolean).join(': ');
    throw new QmpBackupError('failed', `${mountpoint} cannot be mounted: ${said}`, {
      cause: error,
      hint: hintFor(said),
    });
  }
}

/** QEMU asks for `allow_other` first, which may be refused, and then without. */
function whyNot(words: string): string {
  const lines = words.split('; ').filter((line) => !line.includes('allow_other'));
  return [...new Set(lines)].join('; ');
}

function hintFor(said: string): string {
  if (/Parameter 'type'|Invalid parameter 'fuse'/.test(said)) {
    return 'This qemu-storage-daemon was built without FUSE. `qmpbackup serve` gives the same disks over NBD.';
  }
  if (/exec fusermount3/.test(said)) return FUSE3_HINT;
  if (/\/dev\/fuse|device not found/.test(said)) {
    return 'FUSE is not to be had here: modprobe fuse; a container has to be given /dev/fuse. `qmpbackup serve` needs none.';
  }
  return 'Choose another folder, on a local file system; `qmpbackup serve` gives the same disks over NBD.';
}

/** The daemon does not notice that a file was unmounted, and keeps its export, as if it were in use. */
async function untilUnmounted(daemon: StorageDaemon, record: MountRecord, ending: AbortSignal): Promise<void> {
  let mounted = record.files.map((file, index) => ({ ...file, index }));
  while (mounted.length > 0 && !ending.aborted) {
    await sleep(POLL_MS);
    const mounts = fuseMounts();
    const gone = mounted.filter((file) => !findMount(file, record, mounts));
    for (const { path, index } of ending.aborted ? [] : gone) {
      await run(daemon.qmp, 'block-export-del', { id: idOf(index), mode: 'hard' });
      await clearFile(path, false);
    }
    mounted = mounted.filter((file) => !gone.includes(file));
  }
}
