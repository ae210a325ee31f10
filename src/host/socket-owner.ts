import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { codeOf, fileError } from './file-errors.js';

/** Which process listens on a unix socket, so that root can give backup files to the user QEMU runs as. Linux only. */
export interface SocketOwner {
  readonly pid: number;
  /** Effective ids. */
  readonly uid: number;
  readonly gid: number;
  /** Name of the user, or `uid N` for one that /etc/passwd does not know. */
  readonly user: string;
}

/**
 * Undefined when nobody listens there, or whoever does cannot be seen by this user.
 *
 * @throws QmpBackupError when `path` cannot be looked at
 */
export function ownerOfSocket(path: string): Promise<SocketOwner | undefined> {
  return Promise.resolve().then(() => findListener(path));
}

/** Synchronous reads: /proc answers from memory, and some thousand awaits would take ten times as long. */
function findListener(path: string): SocketOwner | undefined {
  const wanted = identityOf(path, (error) => codeOf(error) === 'ENOENT');
  if (wanted === undefined) return undefined;
  const bound = listeningSockets();
  if (bound.size === 0) return undefined;
  const unsure: string[] = [];
  for (const pid of pidsLikelyFirst()) {
    for (const inode of socketsOf(pid)) {
      const name = bound.get(inode);
      if (name === undefined) continue;
      const seen = identityOf(asSeenBy(pid, name), isGone);
      if (seen === wanted) return describe(pid);
      if (seen === undefined && (name === path || (!name.startsWith('/') && basename(name) === basename(path)))) {
        unsure.push(pid);
      }
    }
  }
  // A process that changed its root or its working directory (-chroot, -daemonize) no longer sees the name it bound.
  return unsure.length === 1 && unsure[0] !== undefined ? describe(unsure[0]) : undefined;
}

/** Device and inode of the file at `path`, links followed; undefined when it is not there. */
function identityOf(path: string, tolerate: (error: unknown) => boolean): string | undefined {
  try {
    const { dev, ino } = statSync(path);
    return `${dev}:${ino}`;
  } catch (error) {
    if (tolerate(error)) return undefined;
    throw fileError('look at the socket', path, error);
  }
}

/** The names that sockets were bound to, by inode, as their owners wrote them: relative or below a link perhaps. */
function listeningSockets(): ReadonlyMap<string, string> {
  const sockets = new Map<string, string>();
  for (const line of readFileSync('/proc/net/unix', 'utf8').split('\n')) {
    const match = LISTENING.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) sockets.set(match[1], match[2]);
  }
  return sockets;
}

/** Num RefCount Protocol Flags Type St Inode Path; the flag is SO_ACCEPTCON. */
const LISTENING = /^[0-9a-f]+: \S+ \S+ 00010000 \S+ \S+ +(\d+) ([^@].*)$/;

/** There are many spellings of one path, so a name is looked up as its owner sees it and compared by inode. */
function asSeenBy(pid: string, name: string): string {
  return name.startsWith('/') ? `/proc/${pid}/root${name}` : `/proc/${pid}/cwd/${name}`;
}

function pidsLikelyFirst(): readonly string[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const likely = new Set(pids.filter((pid) => /qemu|kvm/.test(commandOf(pid))));
  return [...likely, ...pids.filter((pid) => !likely.has(pid))];
}

function commandOf(pid: string): string {
  return ifThere(() => readFileSync(`/proc/${pid}/comm`, 'utf8')) ?? '';
}

/** Inodes of the sockets that a process has open. */
function* socketsOf(pid: string): Generator<string> {
  const folder = `/proc/${pid}/fd`;
  for (const descriptor of ifThere(() => readdirSync(folder)) ?? []) {
    const inode = /^socket:\[(\d+)\]$/.exec(ifThere(() => readlinkSync(join(folder, descriptor))) ?? '')?.[1];
    if (inode !== undefined) yield inode;
  }
}

function describe(pid: string): SocketOwner | undefined {
  const status = ifThere(() => readFileSync(`/proc/${pid}/status`, 'utf8'));
  const uid = /^Uid:\t\d+\t(\d+)/m.exec(status ?? '')?.[1];
  const gid = /^Gid:\t\d+\t(\d+)/m.exec(status ?? '')?.[1];
  if (uid === undefined || gid === undefined) return undefined;
  return { pid: Number(pid), uid: Number(uid), gid: Number(gid), user: userName(uid) };
}

function userName(uid: string): string {
  const lines = (ifThere(() => readFileSync('/etc/passwd', 'utf8')) ?? '').split('\n');
  return lines.map((line) => line.split(':')).find((fields) => fields[2] === uid)?.[0] ?? `uid ${uid}`;
}

/** Processes end and descriptors close while one looks; those of other users are not for everybody. */
function ifThere<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  return ['ENOENT', 'ESRCH', 'ENOTDIR', 'EACCES', 'EPERM'].includes(codeOf(error) ?? '');
}
