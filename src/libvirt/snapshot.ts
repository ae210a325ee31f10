/** External snapshots without metadata: libvirt then knows of the overlays by the domain's own definition, and by nothing else. */
import type { Virsh } from './virsh.js';
import { escapeXml } from './xml.js';

export interface SnapshotDisk {
  readonly target: string;
  /** Absolute path of the overlay, which is not there yet: libvirt makes it (qcow2, 0600, QEMU's user). */
  readonly overlay: string;
}

export interface Snapshot {
  readonly disks: readonly SnapshotDisk[];
  /** Targets of the other disks, each of which libvirt would give an overlay of its own choice. */
  readonly without: readonly string[];
}

/**
 * At one instant the guest writes to the overlays, and what is below them stands still; also where the domain is started again.
 * When it rejects with a VirshError no disk has an overlay, though files may be left.
 */
export async function takeSnapshot(virsh: Virsh, uuid: string, snapshot: Snapshot): Promise<void> {
  await virsh('snapshot-create', ['--disk-only', '--atomic', '--no-metadata'], {
    domain: uuid,
    documents: { '--xmlfile': snapshotXml(snapshot) },
  });
}

export function snapshotXml({ disks, without }: Snapshot): string {
  const rows = [
    ...disks.map(
      ({ target, overlay }) =>
        `<disk name='${escapeXml(target)}' snapshot='external' type='file'>` +
        `<driver type='qcow2'/><source file='${escapeXml(overlay)}'/></disk>`,
    ),
    ...without.map((target) => `<disk name='${escapeXml(target)}' snapshot='no'/>`),
  ];
  return `<domainsnapshot>\n  <disks>\n    ${rows.join('\n    ')}\n  </disks>\n</domainsnapshot>\n`;
}

/** Names of the snapshots that libvirt knows of the domain. */
export async function snapshotNames(virsh: Virsh, uuid: string): Promise<readonly string[]> {
  const text = await virsh('snapshot-list', ['--name'], { domain: uuid });
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((name) => name !== '');
}
