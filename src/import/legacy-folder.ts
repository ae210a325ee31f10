import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { numberInName, PARTIAL_SUFFIX } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import { fileError } from '../host/file-errors.js';

/**
 * Folders of the Python tools, which write no catalog: `FULL-<epoch>`, `FULL-<epoch>-<disk file>` and INC likewise. The
 * number in the name gives the order; times of files do not, since any copy changes them.
 */
export interface LegacyFile {
  readonly name: string;
  readonly path: string;
  readonly number: number;
}

export interface LegacyChain {
  /** What the names say after the number, or empty: a folder without sub-folders holds the files of several disks. */
  readonly disk: string;
  /** FULL first, then its increments in their order. */
  readonly files: readonly LegacyFile[];
  /** Left-overs that are ignored, in words. */
  readonly notes: readonly string[];
  /** Why the end of this chain is not the disk's last state, so that only an earlier point may be used; or null. */
  readonly refused: string | null;
}

/**
 * The chains in one disk's folder, for each disk in the order of their FULLs; empty when it holds no backup files.
 *
 * @throws QmpBackupError `unsafe` for increments without any FULL, a backup name on something that is no regular file,
 * and two files for one step; `failed` when the folder cannot be read
 */
export async function readLegacyFolder(diskDir: string): Promise<readonly LegacyChain[]> {
  const byDisk = new Map<string, Named[]>();
  for (const named of await namedIn(diskDir)) {
    const others = byDisk.get(named.disk);
    if (others) others.push(named);
    else byDisk.set(named.disk, [named]);
  }
  return [...byDisk].flatMap(([disk, files]) => chainsOf(diskDir, disk, files.toSorted(inOrder)));
}

interface Named extends LegacyFile {
  readonly level: 'FULL' | 'INC';
  readonly disk: string;
  readonly partial: boolean;
}

async function namedIn(diskDir: string): Promise<readonly Named[]> {
  try {
    const entries = await readdir(diskDir, { withFileTypes: true });
    return entries.toSorted(byName).flatMap((entry) => {
      const named = parseName(diskDir, entry.name);
      if (named && !entry.isFile()) {
        throw new QmpBackupError('unsafe', `${named.path} has the name of a backup and is no regular file`, {
          hint: 'Links are not followed. Put the file itself in that place.',
        });
      }
      return named ? [named] : [];
    });
  } catch (error) {
    throw fileError('read the folder', diskDir, error);
  }
}

function parseName(diskDir: string, name: string): Named | undefined {
  const partial = name.endsWith(PARTIAL_SUFFIX);
  const whole = partial ? name.slice(0, -PARTIAL_SUFFIX.length) : name;
  const match = /^(FULL|INC)-\d+(?:-(.+))?$/.exec(whole.replace(/\.qcow2$/, ''));
  const number = numberInName(whole);
  if (!match || number === undefined) return undefined;
  const level = match[1] === 'FULL' ? 'FULL' : 'INC';
  return { name, path: join(diskDir, name), number, level, disk: match[2] ?? '', partial };
}

function byName(a: { readonly name: string }, b: { readonly name: string }): number {
  return a.name < b.name ? -1 : 1;
}

/** Of one number the FULL comes first: a FULL and its first increment may be made within one second. */
function inOrder(a: Named, b: Named): number {
  return a.number - b.number || (a.level === b.level ? byName(a, b) : a.level === 'FULL' ? -1 : 1);
}

interface GrowingChain {
  readonly files: Named[];
  readonly notes: string[];
  refused: string | null;
}

function chainsOf(diskDir: string, disk: string, files: readonly Named[]): readonly LegacyChain[] {
  const chains: GrowingChain[] = [];
  const before: string[] = [];
  let unfinishedFull: Named | undefined;
  for (const file of files) {
    const chain = chains.at(-1);
    if (file.partial) {
      (chain?.notes ?? before).push(`${file.name} is the rest of a backup that did not finish; it is ignored`);
      if (file.level === 'FULL') unfinishedFull = file;
    } else if (file.level === 'FULL') {
      refuseDouble(diskDir, chain?.files[0], file);
      chains.push({ files: [file], notes: chains.length === 0 ? before : [], refused: null });
      unfinishedFull = undefined;
    } else if (!chain) {
      before.push(`${file.name} has no FULL before it; it is ignored`);
    } else if (chain.refused !== null || unfinishedFull) {
      // The Python tools start a new bitmap with every FULL, also with one that fails: what changed before is in no INC.
      chain.refused ??= `${file.name} builds on ${unfinishedFull?.name ?? ''}, which did not finish`;
      chain.notes.push(`${file.name} is ignored`);
    } else {
      refuseDouble(diskDir, chain.files.at(-1), file);
      chain.files.push(file);
    }
  }
  const orphan = files.find(({ partial }) => !partial);
  if (chains.length === 0 && orphan) {
    throw new QmpBackupError('unsafe', `${diskDir} holds ${orphan.name} and no FULL that it could build on`, {
      hint: 'Put back the FULL backup file; an increment alone cannot be restored.',
    });
  }
  return chains.map(({ files: members, notes, refused }) => ({
    disk,
    files: members.map(({ name, path, number }) => ({ name, path, number })),
    notes,
    refused,
  }));
}

function refuseDouble(diskDir: string, last: Named | undefined, file: Named): void {
  if (last?.number !== file.number || last.level !== file.level) return;
  throw new QmpBackupError(
    'unsafe',
    `${diskDir} holds ${last.name} and ${file.name}: which one is meant is not clear`,
    {
      hint: 'Move one of them out of the folder.',
    },
  );
}
