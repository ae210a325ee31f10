import { expect, it } from 'vitest';
import { snapshotXml } from '../../../src/libvirt/snapshot.js';
import { attribute, find, findAll, parseXml } from '../../../src/libvirt/xml.js';

it('a snapshot names the overlay of each disk, and keeps the others out', () => {
  const overlay = "/o/it's <a> & b.overlay";
  const disks = find(
    parseXml(snapshotXml({ disks: [{ target: 'vda', overlay }], without: ['hda'] }), 'domainsnapshot'),
    'disks',
  );
  const [vda, hda] = findAll(disks, 'disk');
  expect([attribute(vda, 'name'), attribute(vda, 'snapshot'), attribute(vda, 'type')]).toEqual([
    'vda',
    'external',
    'file',
  ]);
  expect(attribute(find(vda, 'source'), 'file')).toBe(overlay);
  expect([attribute(hda, 'name'), attribute(hda, 'snapshot')]).toEqual(['hda', 'no']);
});
