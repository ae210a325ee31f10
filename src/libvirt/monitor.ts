/**
 * Whether a socket of a VM is libvirt's: its monitor, or its guest agent's. libvirt holds the only connection to either,
 * so that such a VM can be reached through libvirt alone.
 */
import { readFile } from 'node:fs/promises';

export interface SocketHint {
  readonly name: string;
  /** Paths hold the beginning of a long name only. */
  readonly whole: boolean;
}

/** Characters that libvirt keeps of a name in a path. */
const SHORT_NAME = 20;

/** `/var/lib/libvirt/qemu/domain-3-web/monitor.sock`. */
const MONITOR = /\/domain-\d+-([^/]*)\/monitor\.sock$/;
/** `…/qemu/channel/target/domain-3-web/org.qemu.guest_agent.0`; newer versions: `/run/libvirt/qemu/channel/3-web/…`. */
const AGENT = /\/channel\/(?:target\/domain-)?\d+-([^/]*)\/org\.qemu\.guest_agent\.0$/;

/** What the path of a socket says. */
export function hintOfPath(path: string): SocketHint | undefined {
  const name = (MONITOR.exec(path) ?? AGENT.exec(path))?.[1];
  return name === undefined ? undefined : { name, whole: name.length < SHORT_NAME };
}

/** What the command line of a QEMU says that libvirt started: `-name guest=web,debug-threads=on …`. */
export function hintOfCommandLine(args: readonly string[]): SocketHint | undefined {
  // A comma inside of the name is written twice.
  const name = /^guest=((?:[^,]|,,)*)/.exec(args[args.indexOf('-name') + 1] ?? '')?.[1]?.replaceAll(',,', ',');
  const isLibvirt = args.some((arg) => /"id":"masterKey0"|\bid=masterKey0\b/.test(arg));
  return isLibvirt && name !== undefined ? { name, whole: true } : undefined;
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
