/** Backup documents: what `backup-begin` is given, and what `backup-dumpxml` says of the job that is running. */
import { attribute, escapeXml, find, findAll, parseXml } from './xml.js';

export interface PullBackup {
  /** Where QEMU is to listen: an absolute path of at most 107 bytes in a folder that QEMU may write to. */
  readonly socket: string;
  readonly disks: readonly PullDisk[];
}

export interface PullDisk {
  readonly target: string;
  /** Checkpoint whose bitmap is exported; null is a full backup. Disks of one backup may differ in it. */
  readonly since: string | null;
  /** Absolute path of a file that is not there yet; libvirt makes it (qcow2, 0600) and removes it with the job. */
  readonly scratch: string;
  /** Name of the export; the target unless told. */
  readonly exportName?: string | undefined;
}

export interface PushBackup {
  readonly disks: readonly PushDisk[];
}

export interface PushDisk {
  readonly target: string;
  readonly since: string | null;
  /** Absolute path; made by libvirt, unless `--reuse-external` says that it is there, with size and backing link. */
  readonly file: string;
}

/** The job that is running, in its own words. Paths tell whose it is. */
export interface RunningBackup {
  readonly mode: 'pull' | 'push';
  /** Of a pull: the unix socket, or null when it listens on TCP. */
  readonly socket: string | null;
  readonly disks: readonly RunningDisk[];
}

export interface RunningDisk {
  readonly target: string;
  readonly since: string | null;
  readonly exportName: string | null;
  /** Name of the bitmap of an incremental pull: its NBD context is `qemu:dirty-bitmap:<name>`. */
  readonly exportBitmap: string | null;
  /** Scratch file of a pull, target file of a push. */
  readonly file: string | null;
}

export function pullBackupXml(backup: PullBackup): string {
  const disks = backup.disks.map(({ target, since, scratch, exportName }) => {
    const name = exportName === undefined ? '' : ` exportname='${escapeXml(exportName)}'`;
    return `    <disk name='${escapeXml(target)}' ${mode(since)}${name} type='file'><scratch file='${escapeXml(scratch)}'/></disk>`;
  });
  return document('pull', [`  <server transport='unix' socket='${escapeXml(backup.socket)}'/>`], disks);
}

export function pushBackupXml(backup: PushBackup): string {
  const disks = backup.disks.map(
    ({ target, since, file }) =>
      `    <disk name='${escapeXml(target)}' ${mode(since)} type='file'>` +
      `<driver type='qcow2'/><target file='${escapeXml(file)}'/></disk>`,
  );
  return document('push', [], disks);
}

/** NBD export and meta context of an incremental disk, as libvirt names them unless told otherwise. */
export function exportOf(disk: PullDisk): { readonly exportName: string; readonly dirtyContext: string | null } {
  return {
    exportName: disk.exportName ?? disk.target,
    dirtyContext: disk.since === null ? null : `qemu:dirty-bitmap:backup-${disk.target}`,
  };
}

export function parseBackup(xml: string): RunningBackup {
  const root = parseXml(xml, 'domainbackup');
  const taken = findAll(find(root, 'disks'), 'disk').filter((disk) => attribute(disk, 'backup') !== 'no');
  return {
    mode: attribute(root, 'mode') === 'pull' ? 'pull' : 'push',
    socket: attribute(find(root, 'server'), 'socket'),
    disks: taken.flatMap((disk): RunningDisk[] => {
      const target = attribute(disk, 'name');
      const file = find(disk, 'scratch') ?? find(disk, 'target');
      if (target === null) return [];
      return [
        {
          target,
          since: attribute(disk, 'incremental'),
          exportName: attribute(disk, 'exportname'),
          exportBitmap: attribute(disk, 'exportbitmap'),
          file: attribute(file, 'file') ?? attribute(file, 'dev'),
        },
      ];
    }),
  };
}

/** Disks that are not named take no part. With `backup='yes'` the schema would ask for more, so it is left out. */
function document(kind: 'pull' | 'push', head: readonly string[], disks: readonly string[]): string {
  return [`<domainbackup mode='${kind}'>`, ...head, '  <disks>', ...disks, '  </disks>', '</domainbackup>', ''].join(
    '\n',
  );
}

function mode(since: string | null): string {
  return since === null ? "backupmode='full'" : `backupmode='incremental' incremental='${escapeXml(since)}'`;
}
