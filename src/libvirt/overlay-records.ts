/**
 * How the images below overlays that track were when they were seen last, kept in the `<metadata>` of the domain: it goes where the domain
 * goes, over a restart, a migration and a libvirtd that was killed, as the overlays themselves do.
 */
import type { ImageState, OverlayRecord } from '../core/overlay-record.js';
import type { Virsh } from './virsh.js';
import { append, element, writeXml } from './xml-edit.js';
import { attribute, find, findAll, textAt, type XmlElement } from './xml.js';

const NAMESPACE = 'urn:qmpbackup:overlays:1';
const PREFIX = 'qmpbackup';
/** The element below `<metadata>`. */
export const OVERLAY_RECORDS = `${PREFIX}:overlays`;

/** Of a `<domain>`. A clone has those of the domain that its definition was copied from, whose overlays are not its own. */
export function overlayRecordsIn(domain: XmlElement): readonly OverlayRecord[] {
  const records = find(domain, 'metadata', OVERLAY_RECORDS);
  if (attribute(records, 'domain') !== textAt(domain, 'uuid')?.toLowerCase()) return [];
  return findAll(records, `${PREFIX}:overlay`).map((each) => ({
    overlay: attribute(each, 'path') ?? '',
    below: findAll(each, `${PREFIX}:below`).map(stateIn),
    changing: attribute(each, 'changing') === 'yes',
    ...(attribute(each, 'told') === 'yes' && { told: true as const }),
  }));
}

function stateIn(below: XmlElement): ImageState {
  const [bytes, modified] = [attribute(below, 'bytes'), attribute(below, 'modified')];
  const file = bytes !== null && modified !== null && /^-?\d+$/.test(modified) ? { bytes, modified } : null;
  return { image: attribute(below, 'path') ?? '', file };
}

/** Instead of all that were there. Of a domain that runs also for its next start. */
export async function keepOverlayRecords(
  virsh: Virsh,
  { uuid, active }: { readonly uuid: string; readonly active: boolean },
  records: readonly OverlayRecord[],
): Promise<void> {
  const what = records.length === 0 ? ['--remove'] : ['--key', PREFIX, '--set', xmlOf(uuid, records)];
  await virsh('metadata', ['--uri', NAMESPACE, '--config', ...(active ? ['--live'] : []), ...what], { domain: uuid });
}

function xmlOf(uuid: string, records: readonly OverlayRecord[]): string {
  const overlays = records.map(({ overlay, below, changing, told }) => {
    const attributes = { path: overlay, ...(changing && { changing: 'yes' }), ...(told && { told: 'yes' }) };
    return append(
      element('overlay', attributes),
      below.map(({ image, file }) => element('below', { path: image, ...file })),
    );
  });
  return writeXml(append(element('overlays', { domain: uuid }), overlays));
}
