import { printable } from '../../core/printable.js';
import { nameOfVolume } from '../../operations/files/find-path.js';
import type { FilesFindResult } from '../../operations/files/find.js';
import type { FilesLsResult, ListedVolume } from '../../operations/files/ls.js';
import { table } from './table.js';
import { formatBytes, formatTime } from './units.js';

export function renderListed({ point, volumes, volume, files }: FilesLsResult): string {
  if (volume === null) return [printable(point), table(volumes.map(rowOfVolume))].join('\n');
  const rows = files.map(({ path, kind, mode, uid, gid, size, mtime }) => [
    ...[`  ${KINDS[kind]}${rightsOf(mode)}`, `${uid}:${gid}`, `${size}`, timeOf(mtime), path],
  ]);
  return [
    `${printable(point)}, ${printable(nameOfVolume(volume))} (${volume.type})`,
    ...(rows.length > 0 ? [table(rows)] : []),
  ].join('\n');
}

function rowOfVolume(volume: ListedVolume): readonly string[] {
  const { size, type, reader } = volume;
  return [`  ${nameOfVolume(volume)}`, size === null ? '' : formatBytes(size), type, whoReads(type, reader)];
}

function whoReads(type: string, reader: ListedVolume['reader']): string {
  if (type === 'lvm') return 'its volumes: --reader guestfs';
  return reader === null ? 'not read' : `read by ${reader === 'guestfs' ? 'libguestfs' : reader}`;
}

export function renderFound({ points, found }: FilesFindResult): string {
  if (found.length === 0) return `nothing of that name in ${points.map(printable).join(', ')}`;
  return found
    .map(({ volume, path, states }) => {
      const rows = states
        .filter(({ state }) => state !== 'same')
        .map(({ point, state, size, mtime }) => [
          ...[`  ${point}`, state, size === null ? '' : `${size}`, mtime === null ? '' : timeOf(mtime)],
        ]);
      return [`${printable(path)} (${printable(volume)})`, table(rows)].join('\n');
    })
    .join('\n');
}

const KINDS = { file: '-', folder: 'd', link: 'l', other: '?' } as const;

function rightsOf(mode: number): string {
  return [...'rwxrwxrwx'].map((letter, index) => (mode & (0o400 >> index) ? letter : '-')).join('');
}

/** A guest may have written any number. */
function timeOf(seconds: number): string {
  return Math.abs(seconds) < 8e12 ? formatTime(new Date(seconds * 1000).toISOString()) : `${seconds}`;
}
