import type { Catalog } from './catalog.js';
import type { FileFault } from './file-record.js';
import { listNames } from './listed-names.js';
import { DEFINITION_FOLDER } from './names.js';
import type { Point, PointDisk } from './point.js';
import { nameOf } from './restore-plan.js';
import { fileKey } from './verified.js';
import { type Warning, warning } from './warning.js';
import { chainsIn, type Healed } from './whole-chains.js';

/** What files that are gone or altered cost: which points, and of which disks. */

/** The files that the catalog says are there, with their sizes; those that an interrupted rebase was changing are its matter. */
export function recordedFiles(catalog: Catalog): readonly { disk: string; file: string; size: number }[] {
  return catalog.points.flatMap((point) => [
    ...point.disks.filter(({ state }) => state === 'whole').map(({ disk, file, size }) => ({ disk, file, size })),
    ...definitionFilesOf(point),
  ]);
}

/** The files of a point in the folder for definitions, which goes for a disk here. */
export function definitionFilesOf({ definition }: Point): readonly { disk: string; file: string; size: number }[] {
  return (definition?.files ?? []).map(({ file, size }) => ({ disk: DEFINITION_FOLDER, file, size }));
}

/** A file without which a point is not whole. */
export interface Damage {
  readonly disk: string;
  /** `<disk>/<file>` */
  readonly file: string;
  /** Continues a sentence that begins with the file: "it is missing". */
  readonly why: string;
}

/**
 * Of every point that needs one of the files in `amiss` (by `<disk>/<file>`), what of it is damaged. what is `healed` is not.
 */
export function damageOf(
  catalog: Catalog,
  amiss: ReadonlyMap<string, FileFault>,
  healed: Healed = new Map(),
): ReadonlyMap<Point, readonly Damage[]> {
  const damaged = new Map<Point, readonly Damage[]>();
  if (amiss.size === 0) return damaged;
  const damageIn = ({ disk, file }: Pick<PointDisk, 'disk' | 'file'>): Damage[] => {
    const fault = amiss.get(`${disk}/${file}`);
    return fault ? [{ disk, file: `${disk}/${file}`, why: fault.why }] : [];
  };
  const chainTo = chainsIn(catalog, damageIn);
  for (const point of catalog.points) {
    const found = [
      ...point.disks.flatMap((entry) => {
        const fine = healed.get(fileKey(entry));
        return chainTo(entry).found.filter(({ disk, file }) => fine?.has(file.slice(disk.length + 1)) !== true);
      }),
      ...definitionFilesOf(point).flatMap(damageIn),
    ];
    if (found.length > 0) damaged.set(point, found);
  }
  return damaged;
}

/** A sentence for each disk that has lost something: the files, and the points that need them. */
export function damageInWords(catalog: Catalog, damaged: ReadonlyMap<Point, readonly Damage[]>): readonly Warning[] {
  const disks = new Set([...damaged.values()].flatMap((found) => found.map(({ disk }) => disk)));
  return [...disks].map((disk) => {
    const of = [...damaged].flatMap(([point, found]) => {
      const here = found.filter((each) => each.disk === disk);
      return here.length > 0 ? [{ point, here }] : [];
    });
    const files = new Map(of.flatMap(({ here }) => here.map(({ file, why }) => [file, why] as const)));
    const words = listNames([...files].map(([file, why]) => `${file}: ${why}`));
    const points = listNames(of.map(({ point }) => nameOf(point, catalog)));
    const lost = disk === DEFINITION_FOLDER ? `the definition of the domain in ${points}` : `${disk} of ${points}`;
    return warning('files-damaged', `${words}. Lost with ${files.size === 1 ? 'it' : 'them'} is ${lost}`);
  });
}
