import { needsOf } from '../../core/point-needs.js';
import type { Consistency } from '../../core/point.js';
import type { ListedPoint } from '../../operations/list.js';
import type { TargetSummary } from '../target-summary.js';
import { type Html, html } from './html.js';
import { type ShownTime, shownTime } from './units.js';

/** A point as the pages show it: what `list` tells of it, and what it stands on. */
export interface PointView {
  readonly listed: ListedPoint;
  /** As `list` names it: `CHAIN:N`, or the id of a copy. */
  readonly name: string;
  /** Milliseconds. */
  readonly atMs: number;
  readonly taken: ShownTime;
  /** Bytes. */
  readonly size: number;
  /** Milliseconds that its slowest disk took. */
  readonly tookMs: number;
  /** `CHAIN:0–36`, itself included. */
  readonly needs: Html;
  /** Since when all bytes that it needs were read and found right; null where some never were. */
  readonly proved: ShownTime | null;
  /** How its guest was; lost: it cannot be restored as a whole. */
  readonly state: Consistency | 'lost';
}

export interface ChainView {
  /** Folder of the target. */
  readonly target: string;
  /** Null for copies. */
  readonly chain: string | null;
  /** Oldest first. */
  readonly points: readonly PointView[];
}

/** The newest chain first, in the newest target. */
export function chainsOf({ folders }: Pick<TargetSummary, 'folders'>): readonly ChainView[] {
  const chains = folders.flatMap(({ target, points, readAt, links }) => {
    const all = points.map(({ point }) => point);
    const needs = needsOf(all, readAt, links());
    const names = points.map(nameOf);
    const found = new Map<string | null, PointView[]>();
    const proofs = new Map<string, ShownTime>();
    const proved = (iso: string | null): ShownTime | null => {
      if (iso === null) return null;
      const known = proofs.get(iso) ?? shownTime(iso);
      proofs.set(iso, known);
      return known;
    };
    for (const [index, listed] of points.entries()) {
      const { chain } = listed.point;
      const ranges = (needs[index]?.ranges ?? []).map(
        ({ first, last }, at) =>
          html`${at > 0 && ', '}${names[first] ?? ''}${first !== last && html`&ndash;${all[last]?.number ?? ''}`}`,
      );
      const view = viewOf(listed, {
        name: names[index] ?? '',
        needs: html`${ranges}`,
        proved: proved(needs[index]?.provedAt ?? null),
      });
      const known = found.get(chain);
      if (known) known.push(view);
      else found.set(chain, [view]);
    }
    return [...found].map(([chain, views]): ChainView => ({ target, chain, points: views }));
  });
  return chains.toSorted((a, b) => lastOf(b) - lastOf(a));
}

function lastOf({ points }: ChainView): number {
  return points.at(-1)?.atMs ?? 0;
}

function nameOf({ point }: ListedPoint): string {
  return point.chain === null ? point.id : `${point.chain}:${point.number}`;
}

function viewOf(listed: ListedPoint, { name, needs, proved }: Pick<PointView, 'name' | 'needs' | 'proved'>): PointView {
  const { point, notWhole } = listed;
  let [size, tookMs] = [0, 0];
  for (const { allocated, state, durationMs } of point.disks) {
    if (state !== 'merged') size += allocated;
    tookMs = Math.max(tookMs, durationMs);
  }
  return {
    listed,
    name,
    atMs: Date.parse(point.createdAt),
    taken: shownTime(point.createdAt),
    size,
    tookMs,
    needs,
    proved,
    state: notWhole === null ? point.consistency : 'lost',
  };
}
