/** What is around a domain: which libvirt answers, its snapshots, its agent. Queries only, and none that taints. */
import { LibvirtAnswerError, VirshError } from './errors.js';
import { hostOf, requireThisHost } from './host.js';
import type { Virsh } from './virsh.js';

export interface Connection {
  /** As libvirt itself says it: the default is spelled out. */
  readonly uri: string;
  /** `libvirt 9.0.0 with QEMU 7.2.22`. */
  readonly version: string;
}

/** The libvirt that answers. @throws QmpBackupError `unsafe` where it is none whose domains can be backed up from here */
export async function askConnection(virsh: Virsh): Promise<Connection> {
  const [host, version] = await Promise.all([hostOf(virsh), virsh('version')]);
  requireThisHost(host, 'a backup is read from a socket there');
  return { uri: host.uri, version: parseVersion(version) };
}

/** Of lines such as `Using library: libvirt 9.0.0` and `Running hypervisor: QEMU 7.2.22`. */
export function parseVersion(text: string): string {
  const library = /^Using library: (.+)$/m.exec(text)?.[1];
  const hypervisor = /^Running hypervisor: (.+)$/m.exec(text)?.[1];
  if (library === undefined) throw new LibvirtAnswerError('the answer of virsh version', text);
  return hypervisor === undefined ? library : `${library} with ${hypervisor}`;
}

export interface Snapshots {
  /** Inside of the images. */
  readonly internal: readonly string[];
  /** Images of their own. */
  readonly external: readonly string[];
}

export async function listSnapshots(virsh: Virsh, uuid: string): Promise<Snapshots> {
  const names = async (kind: string): Promise<string[]> => {
    const text = await virsh('snapshot-list', ['--name', kind], { domain: uuid });
    return text.split('\n').filter((line) => line.trim() !== '');
  };
  return { internal: await names('--internal'), external: await names('--external') };
}

/**
 * Asks the agent of a running guest for its file systems, which a frozen one refuses to tell.
 *
 * @throws VirshError, VirshTimeout
 */
export async function askAgent(
  virsh: Virsh,
  uuid: string,
  options: { readonly timeoutMs: number },
): Promise<{ readonly fileSystems: number } | 'frozen'> {
  try {
    return { fileSystems: countRows(await virsh('domfsinfo', [], { domain: uuid, ...options })) };
  } catch (error) {
    if (error instanceof VirshError && error.reason === 'already-frozen') return 'frozen';
    throw error;
  }
}

/** Rows of a table of virsh: what follows its line of dashes. */
export function countRows(table: string): number {
  const lines = table.split('\n').filter((line) => line.trim() !== '');
  const rule = lines.findIndex((line) => /^-+$/.test(line.trim()));
  return rule < 0 ? 0 : lines.length - rule - 1;
}
