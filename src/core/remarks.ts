import type { Catalog } from './catalog.js';
import type { LeftOut, SourceDisk } from './disk.js';
import type { Level } from './level.js';
import type { LackedDisk, Point, PointDisk } from './point.js';
import type { Warning } from './warning.js';

/**
 * What there is to say of a plan's disks at every run, of which mail should come once: when a chain begins, and when it
 * changes. Whether it was said before is told from the newest point alone.
 */
export interface Remark extends Warning {
  /** `lacks`: a writable disk is not in the point. `standing`: what a disk of it is like. */
  readonly kind: 'lacks' | 'standing';
  /** An earlier run has said it. */
  readonly said: boolean;
}

interface PlannedSource {
  readonly disk: string;
  readonly source: SourceDisk;
  readonly level: Level;
  readonly newBitmap: { readonly persistent: boolean } | null;
}

interface Planned {
  readonly catalog: Catalog | undefined;
  /** The chain of the new point; null for a copy. */
  readonly chain: string | null;
  readonly disks: readonly PlannedSource[];
  readonly leftOut: readonly LeftOut[];
  /** The VM is off, so that no bitmap is added. */
  readonly off: boolean;
}

export function remarksOn({ catalog, chain, disks, leftOut, off }: Planned): readonly Remark[] {
  const before = catalog?.points.findLast((point) => chain === null || point.chain !== null);
  const anew = !before || beginsChain(chain, before);
  const lacked = leftOut.filter(({ kind }) => kind === 'rule');
  const told = new Set(anew ? [] : (before.lacks ?? []).map(keyOf));
  const known = lacksOf(lacked).every((each) => told.has(keyOf(each)));
  return [
    ...lacked.map(({ name, reason, offer }): Remark => {
      const way = offer ? ` (--include ${name} takes it)` : '';
      return {
        code: 'disk-left-out',
        text: `${name} is not in the backup: ${reason}${way}`,
        kind: 'lacks',
        said: known,
      };
    }),
    ...leftOut.flatMap((left) => (left.kind === 'failed' ? [remarkOnFailed(left)] : [])),
    ...disks.flatMap((planned) => {
      const entry = anew ? undefined : newestEntry(catalog, planned.disk);
      return standingOf(planned, off, entry).map((each): Remark => ({ ...each, kind: 'standing' }));
    }),
  ];
}

/** It is no standing fact: said each time. */
export function remarkOnFailed({ name, reason, instead = '' }: Pick<LeftOut, 'name' | 'reason' | 'instead'>): Remark {
  const text = `${name} is not in the backup: ${reason}. ${instead}`.trimEnd();
  return { code: 'disk-failed', text, kind: 'lacks', said: false };
}

/** What a point records of what it lacks; devices that are no disks are no lack. */
export function lacksOf(leftOut: readonly Pick<LeftOut, 'name' | 'reason' | 'kind'>[]): LackedDisk[] {
  return leftOut.flatMap(({ name, reason, kind }): LackedDisk[] =>
    kind === 'no-disk' ? [] : [{ disk: name, reason, kind }],
  );
}

/** Where nothing can be tracked every point begins a chain, and none of them is a new beginning. */
function beginsChain(chain: string | null, before: Point): boolean {
  return chain !== null && chain !== before.chain && before.disks.some(({ bitmap }) => bitmap !== null);
}

function keyOf({ disk, reason, kind }: LackedDisk): string {
  return JSON.stringify([disk, reason, kind]);
}

function newestEntry(catalog: Catalog | undefined, disk: string): PointDisk | undefined {
  const isOf = (entry: PointDisk): boolean => entry.disk === disk;
  return catalog?.points.findLast((point) => point.disks.some(isOf))?.disks.find(isOf);
}

function standingOf(
  { disk, source, newBitmap, level }: PlannedSource,
  off: boolean,
  entry: PointDisk | undefined,
): Omit<Remark, 'kind'>[] {
  const found: Omit<Remark, 'kind'>[] = [];
  const sameFormat = entry?.source.format === source.format;
  const untracked = sameFormat && entry.bitmap === null;
  if (newBitmap && !newBitmap.persistent) {
    const text = `${disk}: a ${source.format} image cannot store a bitmap; increments are possible only until QEMU ends`;
    found.push({ code: 'bitmap-not-stored', text, said: sameFormat && entry.bitmap?.persistent === false });
  }
  const untrackable = whyUntrackable(source);
  if (!newBitmap && level !== 'copy' && untrackable) {
    found.push({ code: 'disk-untracked', text: `${disk}: ${untrackable}`, said: untracked });
  } else if (off && level === 'full') {
    const text = `${disk}: while the VM is off nothing begins to track changes, so the next backup reads the whole disk, too`;
    found.push({ code: 'disk-untracked', text, said: untracked && entry.level === 'full' });
  }
  if (source.encrypted) {
    const text = `${disk}: the source is encrypted, its backup is not`;
    found.push({ code: 'plaintext-copy', text, said: entry?.plaintextOfEncrypted === true });
  }
  return found;
}

/** Why no bitmap can track the disk, whoever asks; undefined where one can. */
export function whyUntrackable(source: SourceDisk): string | undefined {
  if (source.tracking === 'overlay') return undefined;
  if (source.cannotTrack !== null) return source.cannotTrack;
  if (source.format === 'qcow2' && source.compat === '0.10') {
    return 'qcow2 version 2 cannot hold bitmaps, so every backup reads the whole disk (convert it while the VM is off: qemu-img amend -o compat=1.1 IMAGE)';
  }
  return undefined;
}
