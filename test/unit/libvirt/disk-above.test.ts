import { describe, expect, it } from 'vitest';
import { hasBelow, withBelow } from '../../../src/libvirt/disk-above.js';

const ABOVE = { image: '/to/vda.qcow2', below: { socket: '/to/backup.sock', name: 'vda' } };
const ALONE = { ...ABOVE, below: null };

const domain = (backing: string): string => `<domain type='kvm'>
  <name>a</name>
  <devices>
    <disk type='file' device='disk'>
      <source file='/to/vda.qcow2' index='1'/>${backing}
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sda' bus='sata'/>
    </disk>
  </devices>
</domain>
`;

const EXPORT = `<backingStore type='network'><format type='raw'/><source protocol='nbd' name='vda'><host transport='unix' socket='/to/backup.sock'/></source><backingStore/></backingStore>`;

describe('a disk above an export', () => {
  it.each([
    ['nothing is said', domain(''), ABOVE],
    ['nothing is said, and it stands alone', domain(''), ALONE],
    ['it stood alone', domain('<backingStore/>'), ABOVE],
    ['it was above another export', domain(EXPORT.replace('backup.sock', 'other.sock')), ABOVE],
    ['it stands alone now', domain(EXPORT), ALONE],
  ])('is made so where %s', (_, xml, disk) => {
    const edited = withBelow(xml, new Map([['vda', disk]]));
    expect(edited).toMatchObject({ changed: true, others: [] });
    expect(hasBelow(edited.xml, 'vda')).toBe(disk.below !== null);
    expect(withBelow(edited.xml, new Map([['vda', disk]])).changed).toBe(false);
    expect(edited.xml.match(/<backingStore/g)).toHaveLength(disk.below === null ? 1 : 2);
    expect(edited.xml).toContain(`<target dev='sda' bus='sata'/>`);
  });

  it('is left as it is where it has another image, and told', () => {
    const other = { ...ALONE, image: '/to/vdb.qcow2' };
    const edited = withBelow(
      domain(EXPORT),
      new Map([
        ['vda', other],
        ['vdz', other],
      ]),
    );
    expect(edited).toMatchObject({ changed: false, others: ['vda', 'vdz'] });
    expect(hasBelow(edited.xml, 'vda')).toBe(true);
    expect(hasBelow(edited.xml, 'sda')).toBe(false);
    expect(hasBelow(edited.xml, 'vdz')).toBeNull();
  });
});
