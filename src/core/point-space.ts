import type { Point } from './point.js';

/** What the files of points take, and which points build on which. Sizes are bytes. */
export function bytesOfPoint({ disks, definition }: Point): number {
  const images = disks.reduce((sum, { state, allocated }) => sum + (state === 'merged' ? 0 : allocated), 0);
  return (definition?.files ?? []).reduce((sum, { size }) => sum + size, images);
}

/** What is free when one point goes and all others stay, as `prune` lets points go. */
export interface FreedAlone {
  /** 0 where others build on it. */
  readonly bytes: number;
  /** Ids of the points whose files build on its own, without those that do so by way of another. */
  readonly neededBy: readonly string[];
}

/** For each of the points of a target: the links between them are looked at once. */
export function freedAlone(points: readonly Point[]): (point: Point) => FreedAlone {
  const links = parentsIn(points.map((point) => ({ target: '', point })));
  const children = points.map(() => new Set<string>());
  for (const [index, { id }] of points.entries()) {
    for (const { parent } of links[index] ?? []) children[parent]?.add(id);
  }
  const byId = new Map(points.map(({ id }, index) => [id, children[index]]));
  return (point) => {
    const neededBy = [...(byId.get(point.id) ?? [])];
    return { bytes: neededBy.length > 0 ? 0 : bytesOfPoint(point), neededBy };
  };
}

export interface PointLink {
  /** Index of the point that is built on. */
  readonly parent: number;
  /** The file that builds on it. */
  readonly file: string;
}

/** Of each point the points that its files build on, in the same target. */
export function parentsIn(
  history: readonly { readonly target: string; readonly point: Point }[],
): readonly (readonly PointLink[])[] {
  const owners = new Map<string, number>();
  for (const [index, { target, point }] of history.entries()) {
    for (const { disk, file, state } of point.disks) {
      if (state !== 'merged') owners.set(`${target}\n${disk}/${file}`, index);
    }
  }
  return history.map(({ target, point }, index) =>
    point.disks.flatMap(({ disk, file, parent, state }): PointLink[] => {
      if (parent === null || state === 'merged') return [];
      const owner = owners.get(`${target}\n${disk}/${parent}`);
      return owner === undefined || owner === index ? [] : [{ parent: owner, file }];
    }),
  );
}
