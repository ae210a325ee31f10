import type { Catalog } from './catalog.js';
import type { Journal } from './journal.js';
import { recordedBitmaps } from './chain.js';
import { DEFINITION_FOLDER } from './names.js';
import { perCatalog } from './per-catalog.js';

/** What the journal names and the catalog does not: all of a run that was not sealed, else what belongs to disks that failed in it. */
export function unsealedOf(journal: Journal, catalog: Catalog | undefined): Journal {
  if (!catalog?.points.some(({ id }) => id === journal.attempt)) return journal;
  const sealed = filesOf(catalog);
  return partOf(journal, ({ disk, file }) => !sealed.has(`${disk}/${file}`));
}

/** The disks of a journal whose bitmaps no file of the catalog has. Of a libvirt domain one name is on all disks: sealed with one, it stays. */
export function withUnrecordedBitmap({ disks }: Journal, catalog: Catalog | undefined): Journal['disks'] {
  const recorded = catalog ? recordedBitmaps(catalog) : new Set<string>();
  return disks.filter(({ bitmap }) => bitmap !== null && !recorded.has(bitmap));
}

/** What the catalog names, by `<folder>/<file>`. */
export function filesOf(catalog: Catalog | undefined): ReadonlySet<string> {
  return catalog ? filesIn(catalog) : new Set();
}

const filesIn = perCatalog(({ points }): ReadonlySet<string> => {
  const names = new Set<string>();
  for (const { disks, definition } of points) {
    for (const { disk, file } of disks) names.add(`${disk}/${file}`);
    for (const { file } of definition?.files ?? []) names.add(`${DEFINITION_FOLDER}/${file}`);
  }
  return names;
});

/** The journal's word for some of its disks. */
export function partOf(journal: Journal, has: (disk: Journal['disks'][number]) => boolean): Journal {
  const disks = journal.disks.filter(has);
  return {
    ...journal,
    disks,
    madeFolders: journal.madeFolders.filter((each) => disks.some(({ disk }) => disk === each)),
  };
}

/** A journal of which nothing is left to be done but to remove these bitmaps. */
export function onlyBitmaps(journal: Journal, disks: Journal['disks']): Journal {
  return {
    ...journal,
    madeFolders: [],
    freezes: null,
    stops: false,
    scratch: [],
    servesNbd: false,
    disks,
    overlays: undefined,
  };
}

/** The journal's word for the bitmaps of a run that died before its point was sealed, or of disks that failed in it. */
export function bitmapsOfDead({
  journal,
  catalog,
}: {
  readonly journal: Journal | undefined;
  readonly catalog: Catalog | undefined;
}): Journal['disks'] {
  return journal ? withUnrecordedBitmap(unsealedOf(journal, catalog), catalog) : [];
}
