import { displayName } from '../../core/identity.js';
import { printable } from '../../core/printable.js';
import type { ListedPoint, ListedTarget, ListResult } from '../../operations/list.js';
import { table } from './table.js';
import { formatBytes, formatDuration, formatTime } from './units.js';

/** Chains and points of targets, oldest first. */
export function renderList({ targets, unread }: ListResult, verbose: boolean): string {
  return [
    ...targets.map((target) => renderTarget(target, verbose)),
    ...unread.map(({ target, error }) => `${printable(target)}  NOT LISTED, ${printable(error.message)}`),
  ].join('\n\n');
}

function renderTarget({ target, vm, points }: ListedTarget, verbose: boolean): string {
  const heading = `${printable(target)}  VM ${printable(displayName(vm) ?? 'without name')}, ${points.length} ${points.length === 1 ? 'point' : 'points'}`;
  // Columns for those who use them.
  const withBoots = points.some(({ booted }) => booted !== null);
  const withNotes = points.some(({ point }) => noteOf(point) !== '');
  const header = [
    ...['POINT', ...(verbose ? ['ID'] : []), 'TAKEN', 'LEVEL', 'CONSISTENCY', 'SIZE', 'NEEDS', 'FREES'],
    ...[...(withBoots ? ['BOOTED'] : []), 'DISKS', ...(withNotes ? ['NOTE'] : [])],
  ];
  return [heading, table([header, ...points.map((each) => row(each, { verbose, withBoots, withNotes }))])].join('\n');
}

function noteOf({ pinned, note }: ListedPoint['point']): string {
  return [...(pinned ? ['pinned'] : []), ...(note === undefined ? [] : [printable(note)])].join(': ');
}

/** When it was last tried, and how long it took or that it did not. */
function bootedIn({ booted }: ListedPoint): string {
  if (booted === null) return '-';
  return `${formatTime(booted.at)} ${booted.afterMs === null ? 'FAILED' : `in ${formatDuration(booted.afterMs)}`}`;
}

/** What its removal alone would free, or how many points forbid it. */
function freesInWords({ freed: { bytes, neededBy } }: ListedPoint): string {
  if (neededBy.length === 0) return formatBytes(bytes);
  return `0 (${neededBy.length} ${neededBy.length === 1 ? 'builds' : 'build'} on it)`;
}

function row(
  listed: ListedPoint,
  { verbose, withBoots, withNotes }: Record<'verbose' | 'withBoots' | 'withNotes', boolean>,
): readonly string[] {
  const { point, files, notWhole, suspect } = listed;
  const size = point.disks.reduce((sum, { allocated, state }) => sum + (state === 'merged' ? 0 : allocated), 0);
  const disks = point.disks.map(({ disk, level, state, plaintextOfEncrypted, compared, file }) => {
    const notes = [
      ...(level === point.level ? [] : [level.toUpperCase()]),
      ...(compared ? ['by comparison'] : []),
      ...(state === 'whole' ? [] : [state]),
      ...(plaintextOfEncrypted ? ['decrypted'] : []),
      ...(suspect.some((each) => each.disk === disk) ? ['suspect'] : []),
      ...(verbose ? [file] : []),
    ];
    return notes.length === 0 ? disk : `${disk} (${notes.join(', ')})`;
  });
  const without = (point.lacks ?? []).filter(({ kind }) => kind !== 'request').map(({ disk }) => disk);
  const lacked = without.length === 0 ? '' : `, without ${without.join(' ')}`;
  return [
    point.chain === null ? point.id : `${point.chain}:${point.number}`,
    ...(verbose ? [point.id] : []),
    formatTime(point.createdAt),
    point.level.toUpperCase(),
    point.consistency,
    formatBytes(size),
    `${files} ${files === 1 ? 'file' : 'files'}`,
    freesInWords(listed),
    ...(withBoots ? [bootedIn(listed)] : []),
    notWhole === null ? `${disks.join(' ')}${lacked}` : `${disks.join(' ')}${lacked}: NOT RESTORABLE, ${notWhole}`,
    ...(withNotes ? [noteOf(point)] : []),
  ];
}
