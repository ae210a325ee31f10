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

/** For each of the points of a target. `links` are asked for when it is first asked. */
export function freedAlone(
  points: readonly Point[],
  links: () => PointLinks = () => linksIn(points),
): (point: Point) => FreedAlone {
  let children: ReadonlyMap<string, ReadonlySet<string>> | undefined;
  return (point) => {
    children ??= childrenIn(points, links());
    const neededBy = [...(children.get(point.id) ?? [])];
    return { bytes: neededBy.length > 0 ? 0 : bytesOfPoint(point), neededBy };
  };
}

/** Of each point, by its id, those whose files build on its own. */
function childrenIn(points: readonly Point[], links: PointLinks): ReadonlyMap<string, ReadonlySet<string>> {
  const children = new Map(points.map(({ id }) => [id, new Set<string>()]));
  for (const [index, own] of links.entries()) {
    for (const { parent } of own) children.get(points[parent]?.id ?? '')?.add(points[index]?.id ?? '');
  }
  return children;
}

/** Of each point, by its index, what its files build on. */
export type PointLinks = readonly (readonly PointLink[])[];

/** `parentsIn` of the points of one target. */
export function linksIn(points: readonly Point[]): PointLinks {
  return parentsIn(points.map((point) => ({ target: '', point })));
}

export interface PointLink {
  /** Index of the point that is built on. */
  readonly parent: number;
  /** The file that builds on it. */
  readonly file: string;
}

/** Of each point the points that its files build on, in the same target. */
export function parentsIn(history: readonly { readonly target: string; readonly point: Point }[]): PointLinks {
  const owners = new Owners();
  for (const [index, { target, point }] of history.entries()) {
    for (const { disk, file, state } of point.disks) if (state !== 'merged') owners.set(target, disk, file, index);
  }
  return history.map(({ target, point }, index) =>
    point.disks.flatMap(({ disk, file, parent, state }): PointLink[] => {
      if (parent === null || state === 'merged') return [];
      const owner = owners.get(target, disk, parent);
      return owner === undefined || owner === index ? [] : [{ parent: owner, file }];
    }),
  );
}

/** Which point each file is of. Keys made of three names for each file took half the time of a whole look at the links. */
class Owners {
  readonly #byFolder = new Map<string, Map<string, Map<string, number>>>();

  set(target: string, disk: string, file: string, owner: number): void {
    const disks = this.#byFolder.get(target) ?? new Map<string, Map<string, number>>();
    this.#byFolder.set(target, disks);
    const files = disks.get(disk) ?? new Map<string, number>();
    disks.set(disk, files);
    files.set(file, owner);
  }

  get(target: string, disk: string, file: string): number | undefined {
    return this.#byFolder.get(target)?.get(disk)?.get(file);
  }
}
