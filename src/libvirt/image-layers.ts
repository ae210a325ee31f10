/** The images that a disk of a domain is made of. */
import type { ImageLayer } from '../core/overlay-layers.js';
import type { DomainDisk } from './domain-xml.js';

/** At least one. */
export type ImageLayers = readonly [ImageLayer, ...ImageLayer[]];

/** The images of a disk, the uppermost first. */
export function imagesOf({ target, format, source, backing }: DomainDisk): ImageLayers {
  const layer = (of: DomainDisk['source'], told: string | null): ImageLayer => ({
    path: of?.path ?? null,
    description: of?.path ?? of?.description ?? target,
    format: told ?? 'raw',
  });
  return [layer(source, format), ...backing.map((each) => layer(each.source, each.format))];
}
