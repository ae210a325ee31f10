import type { Qcow2Header } from './qcow2-header.js';

/** A file that the header of an image names and must not. The names are those in the header. */
export type LinkFault =
  | { readonly kind: 'data-file'; readonly name: string | null }
  | { readonly kind: 'backing-file'; readonly name: string | null }
  | { readonly kind: 'format'; readonly name: string | null };

/**
 * The one rule of which other files an image in a backup folder may name: no data file, and as its backing file one of
 * `links` (null is none), given as qcow2. Undefined where it keeps to that.
 *
 * `loose` is for images of other tools, which are opened only in views that override their links: of a link only the
 * last part of its path counts, and its format may be left to guess.
 */
export function linkFault(
  header: Pick<Qcow2Header, 'dataFile' | 'externalDataFileName' | 'backingFile' | 'backingFormat'>,
  links: readonly (string | null)[],
  { loose = false }: { readonly loose?: boolean } = {},
): LinkFault | undefined {
  const { dataFile, externalDataFileName, backingFile, backingFormat } = header;
  if (dataFile || externalDataFileName !== null) return { kind: 'data-file', name: externalDataFileName };
  if (!links.includes(loose ? lastPart(backingFile) : backingFile)) return { kind: 'backing-file', name: backingFile };
  const isGiven = backingFormat === 'qcow2' || (loose && backingFormat === null);
  if (backingFile !== null && !isGiven) return { kind: 'format', name: backingFormat };
  return undefined;
}

function lastPart(link: string | null): string | null {
  return link?.slice(link.lastIndexOf('/') + 1) ?? null;
}
