/**
 * Whether a monitor socket is libvirt's. libvirt holds the only connection to it, so that such a VM can be reached
 * through libvirt alone.
 */
import { readFile } from 'node:fs/promises';
import { DomainNotFound } from './errors.js';
import type { ListedDomain } from './domain.js';
import { parseDomain } from './domain-xml.js';
import type { Virsh } from './virsh.js';

export interface MonitorHint {
  /** How virsh can be asked for it: an id or a UUID. */
  readonly domain: string;
  /** As far as it is known; libvirt shortens names in paths. */
  readonly name: string;
}

/** What the path of a monitor socket says, as `/var/lib/libvirt/qemu/domain-3-web/monitor.sock`. */
export function hintOfPath(path: string): MonitorHint | undefined {
  const [, id, name] = /\/domain-(\d+)-([^/]*)\/monitor\.sock$/.exec(path) ?? [];
  return id === undefined || name === undefined ? undefined : { domain: id, name };
}

/** What the command line of a QEMU says that libvirt started: `-name guest=web,debug-threads=on … -uuid …`. */
export function hintOfCommandLine(args: readonly string[]): MonitorHint | undefined {
  const valueOf = (option: string): string | undefined => args[args.indexOf(option) + 1 || args.length];
  const uuid = valueOf('-uuid');
  // A comma inside of the name is written twice.
  const name = /^guest=((?:[^,]|,,)*)/.exec(valueOf('-name') ?? '')?.[1]?.replaceAll(',,', ',');
  const isLibvirt = args.some((arg) => /"id":"masterKey0"|\bid=masterKey0\b/.test(arg));
  return isLibvirt && uuid !== undefined && name !== undefined ? { domain: uuid, name } : undefined;
}

/**
 * The domain of a monitor socket: by its path, else by the process that listens on it. Undefined when neither points
 * at libvirt; `DomainNotFound` when they do and this libvirt has no such domain.
 */
export async function domainOfMonitor(
  virsh: Virsh,
  monitor: { readonly path: string; readonly pid: number | undefined },
): Promise<ListedDomain | undefined> {
  const hint =
    (monitor.pid === undefined ? undefined : hintOfCommandLine(await commandLineOf(monitor.pid))) ??
    hintOfPath(monitor.path);
  if (!hint) return undefined;
  const { uuid, name } = parseDomain(await virsh('dumpxml', [], { domain: hint.domain }));
  // Ids are given out anew when libvirt restarts on another host; the path's name begins as the domain's does.
  if (!name.startsWith(hint.name)) throw new DomainNotFound(hint.name, `${hint.domain} is the domain ${name}`);
  return { uuid, name };
}

/** Empty when the process has ended or cannot be looked at. */
export async function commandLineOf(pid: number): Promise<string[]> {
  try {
    return (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES') return [];
    throw error;
  }
}
