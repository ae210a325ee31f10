/**
 * Whether the files that a libvirt names are those of this host (docs/decisions/0016). Where they are not, an image that lies
 * here at the same path is another one.
 */
import { randomBytes } from 'node:crypto';
import { open, unlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { VirshError } from './errors.js';
import type { Virsh } from './virsh.js';

export interface LibvirtHost {
  /** As libvirt itself says it: the default and aliases are spelled out. */
  readonly uri: string;
  /** What tells that its files are those of another host, in words; null where they are those of this one. */
  readonly elsewhere: string | null;
}

/** Where libvirt is asked for a file that was just made: also the sockets of backups lie there. */
const SHARED = '/var/tmp';

/** @throws QmpBackupError `unsafe` where it is no driver for QEMU: no other has backup jobs */
export async function hostOf(virsh: Virsh): Promise<LibvirtHost> {
  const [uri, name] = await Promise.all([virsh('uri'), virsh('hostname')]).then((texts) =>
    texts.map((text) => text.trim()),
  );
  if (uri === undefined || name === undefined || !/^qemu(?:\+|:)/.test(uri)) {
    throw new QmpBackupError('unsafe', `${uri} is not libvirt's driver for QEMU, and no other has backup jobs`, {
      hint: `Choose another one with --connect, such as ${process.getuid?.() === 0 ? 'qemu:///system' : 'qemu:///session'}.`,
    });
  }
  if (!isSameHost(name, hostname()))
    return { uri, elsewhere: `it is on the host ${name}, and this one is ${hostname()}` };
  if (isPlainlyLocal(uri) || (await seesFileOfOurs(virsh, SHARED)) !== false) return { uri, elsewhere: null };
  return {
    uri,
    elsewhere: `its host is called ${name} as this one is, and does not see a file that was made in ${SHARED}`,
  };
}

/** @throws QmpBackupError `unsafe` where its files are those of another host; `why` that is asked for, in words */
export function requireThisHost({ uri, elsewhere }: LibvirtHost, why: string): void {
  if (elsewhere === null) return;
  throw new QmpBackupError('unsafe', `libvirt at ${uri} does not have the files of this host: ${elsewhere}; ${why}`, {
    hint: 'Nothing was changed. Run qmpbackup on the host of that libvirt, whose images and target it then reads and writes.',
  });
}

/**
 * As `hostOf`, of the folders of these files: a mount namespace may differ in one and not in another. Asked only where the way
 * to libvirt is not plain, so that elsewhere nothing is made beside anybody's images.
 */
export async function hostOfFiles(virsh: Virsh, host: LibvirtHost, files: readonly string[]): Promise<LibvirtHost> {
  if (host.elsewhere !== null || isPlainlyLocal(host.uri)) return host;
  const folders = [...new Set(files.map((file) => dirname(file)))].filter((folder) => !/^\/dev(?:\/|$)/.test(folder));
  const seen = await Promise.all(folders.map((folder) => seesFileOfOurs(virsh, folder)));
  const unseen = folders.find((_, index) => seen[index] === false);
  return unseen === undefined ? host : { ...host, elsewhere: `it does not see a file that was made in ${unseen}` };
}

/** libvirt completes a name without a domain where the name service can; the kernel's own may be without. */
export function isSameHost(theirs: string, ours: string): boolean {
  const [a, b] = [theirs.toLowerCase(), ours.toLowerCase()];
  return a === b || a.startsWith(`${b}.`) || b.startsWith(`${a}.`);
}

/** The URI of a libvirt that is reached at its own place: neither by way of a host nor by a socket that somebody chose. */
export function isPlainlyLocal(uri: string): boolean {
  return /^qemu(?:\+unix)?:\/\/\//.test(uri) && !/[?&]socket=/.test(uri);
}

/**
 * Asks for what libvirt would say of a file as an emulator, by which it tells whether the file is there; nothing is run.
 * Null where that cannot be told.
 */
async function seesFileOfOurs(virsh: Virsh, folder: string): Promise<boolean | null> {
  const path = join(folder, `.qmpbackup-${randomBytes(8).toString('hex')}`);
  try {
    await (await open(path, 'wx', 0o600)).close();
  } catch {
    // A folder that this user cannot write to tells nothing of the host.
    return null;
  }
  try {
    await virsh('domcapabilities', ['--emulatorbin', path]);
    return null;
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    if (/No such file/.test(error.words)) return false;
    return /not executable|Permission denied/.test(error.words) ? true : null;
  } finally {
    await unlink(path);
  }
}
