import { describe, expect, it } from 'vitest';
import { parseDomain } from '../../../src/libvirt/domain-xml.js';
import {
  mediaOf,
  type RestoredDomain,
  type RestoredImage,
  restoredDomain,
} from '../../../src/libvirt/restored-domain.js';

const UUID = '5a6e2c9a-1b7e-4c7f-9d55-0c8a6f0a1111';
const NEW_UUID = '00000000-1111-4222-8333-444444444444';

/** As libvirt 9.0 prints it, with something of everything that may be in it. */
const RICH = `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web &amp; &lt;db&gt; &apos;1&apos;</name>
  <uuid>${UUID}</uuid>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <title>A &quot;title&quot;</title>
  <description>two
lines &amp; more</description>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
    <qmpbackup:overlays xmlns:qmpbackup='urn:qmpbackup:overlays:1'>
      <qmpbackup:overlay path='/o/a'/>
    </qmpbackup:overlays>
  </metadata>
  <memory unit='KiB'>65536</memory>
  <currentMemory unit='KiB'>65536</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <sysinfo type='smbios'>
    <system>
      <entry name='serial'>007</entry>
      <entry name='uuid'>${UUID}</entry>
    </system>
  </sysinfo>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>
    <smbios mode='sysinfo'/>
  </os>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>Nehalem</model>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk' snapshot='external'>
      <driver name='qemu' type='raw' cache='none' io='native' discard='unmap'/>
      <source file='/images/o&apos;brien &amp; co.img'>
        <encryption format='luks'/>
      </source>
      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='/images/base.qcow2'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <iotune>
        <total_iops_sec>500</total_iops_sec>
      </iotune>
      <serial>007</serial>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x04' function='0x0'/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu'/>
      <auth username='ceph'>
        <secret type='ceph' usage='x'/>
      </auth>
      <source protocol='rbd' name='pool/image'>
        <host name='mon' port='6789'/>
      </source>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/images/left-out.raw'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/images/shared.img'/>
      <target dev='vdd' bus='virtio'/>
      <readonly/>
    </disk>
    <disk type='file' device='cdrom'>
      <source file='/iso/there.iso'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='block' device='cdrom'>
      <source dev='/dev/sr7'/>
      <target dev='sdb' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdc' bus='sata'/>
      <readonly/>
    </disk>
    <disk type='file' device='floppy'>
      <source file='/images/floppy.img'/>
      <target dev='fda' bus='fdc'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:12:34:56'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <channel type='unix'>
      <source mode='bind' path='/run/own.sock'/>
      <target type='virtio' name='own.0'/>
    </channel>
    <filesystem type='mount'>
      <source dir='/srv/share'/>
      <target dir='share'/>
    </filesystem>
    <tpm model='tpm-crb'>
      <backend type='emulator' version='2.0'>
        <source type='dir' path='/srv/tpm'/>
      </backend>
    </tpm>
    <graphics type='vnc' port='-1' autoport='yes' passwd='secret'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-global'/>
    <qemu:arg value='a=&quot;b&quot;'/>
  </qemu:commandline>
</domain>
`;

const original = parseDomain(RICH);

const qcow2 = (path: string): RestoredImage => ({ path, format: 'qcow2', isDevice: false });

const SAME: RestoredDomain = {
  name: original.name,
  newUuid: null,
  disks: new Map([
    ['vda', qcow2("/out/it's <a> & b/vda.qcow2")],
    ['vdb', qcow2('/out/vdb.qcow2')],
  ]),
  nvram: '/out/web.nvram',
  media: new Set(['/iso/there.iso', '/images/shared.img']),
};

const lines = (text: string): string[] => text.split('\n').map((line) => line.replaceAll('"', "'").trim());
/** What is in one and not in the other, line by line. */
const difference = (a: string, b: string): string[] => lines(a).filter((line) => !lines(b).includes(line));

describe('the original put back', () => {
  const { xml, notes } = restoredDomain({ inactive: RICH, live: null }, SAME);

  it('has its disks and variables at the new places and is else as it was', () => {
    expect(difference(xml, RICH)).toEqual([
      "<name>web &amp; &lt;db&gt; '1'</name>",
      '<genid/>',
      "<title>A 'title'</title>",
      "<nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/out/web.nvram</nvram>",
      "<driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'/>",
      "<source file='/out/it&apos;s &lt;a&gt; &amp; b/vda.qcow2'/>",
      "<driver name='qemu' type='qcow2'/>",
      "<source file='/out/vdb.qcow2'/>",
    ]);
    expect(difference(RICH, xml)).toEqual([
      '<name>web &amp; &lt;db&gt; &apos;1&apos;</name>',
      '<genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>',
      '<title>A &quot;title&quot;</title>',
      "<qmpbackup:overlays xmlns:qmpbackup='urn:qmpbackup:overlays:1'>",
      "<qmpbackup:overlay path='/o/a'/>",
      '</qmpbackup:overlays>',
      "<nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/libvirt/qemu/nvram/web_VARS.fd</nvram>",
      "<driver name='qemu' type='raw' cache='none' io='native' discard='unmap'/>",
      "<source file='/images/o&apos;brien &amp; co.img'>",
      "<encryption format='luks'/>",
      '</source>',
      "<backingStore type='file'>",
      "<format type='qcow2'/>",
      "<source file='/images/base.qcow2'/>",
      '<backingStore/>',
      '</backingStore>',
      "<disk type='network' device='disk'>",
      "<driver name='qemu'/>",
      "<auth username='ceph'>",
      "<secret type='ceph' usage='x'/>",
      '</auth>',
      "<source protocol='rbd' name='pool/image'>",
      "<host name='mon' port='6789'/>",
      '</source>',
      "<driver name='qemu' type='raw'/>",
      "<source file='/images/left-out.raw'/>",
      "<target dev='vdc' bus='virtio'/>",
      "<disk type='block' device='cdrom'>",
      "<source dev='/dev/sr7'/>",
      "<source file='/images/floppy.img'/>",
    ]);
  });

  it('is the same domain to whoever reads it', () => {
    const again = parseDomain(xml);
    expect(again).toMatchObject({ name: original.name, uuid: UUID, nvram: '/out/web.nvram', tpm: 'elsewhere' });
    expect(again.disks.map(({ target, format, source }) => [target, format, source?.path ?? null])).toEqual([
      ['vda', 'qcow2', "/out/it's <a> & b/vda.qcow2"],
      ['vdb', 'qcow2', '/out/vdb.qcow2'],
      ['vdd', null, '/images/shared.img'],
      ['sda', null, '/iso/there.iso'],
      ['sdb', null, null],
      ['sdc', null, null],
      ['fda', null, null],
    ]);
  });

  it('says what it is without', () => {
    expect(notes).toEqual([
      'vdc is left out of the definition: it was not restored (its image was /images/left-out.raw)',
      'sdb has no medium now: it was /dev/sr7',
      'fda has no medium now: it was /images/floppy.img',
    ]);
  });
});

describe('another domain beside the original', () => {
  const clone = { ...SAME, name: `<new> "it's" & more`, newUuid: NEW_UUID };

  it("has a UUID of its own everywhere, no MAC address, and no place that is the original's", () => {
    const { xml, notes } = restoredDomain({ inactive: RICH, live: null }, clone);
    expect(xml).not.toContain(UUID);
    expect(xml).toContain(`<entry name='uuid'>${NEW_UUID}</entry>`);
    expect(xml).not.toContain('<mac');
    expect(parseDomain(xml)).toMatchObject({ name: clone.name, uuid: NEW_UUID, tpm: 'default' });
    expect(xml).toContain("passwd='secret'");
    expect(notes.slice(3).map((note) => note.split(' ')[0])).toEqual(['/run/own.sock', '/srv/share', 'what']);
  });

  it('never writes to the variables of the original, also where the point has none', () => {
    const { xml, notes } = restoredDomain({ inactive: RICH, live: null }, { ...clone, nvram: null });
    expect(xml).toContain("<nvram template='/usr/share/OVMF/OVMF_VARS.fd'/>");
    expect(notes.join()).toContain('UEFI variables');
    const source = RICH.replace(
      /<nvram [^]*<\/nvram>/,
      "<nvram type='file' format='qcow2'><source file='/var/lib/libvirt/qemu/nvram/x.qcow2'/></nvram>",
    );
    expect(restoredDomain({ inactive: source, live: null }, { ...clone, nvram: null }).xml).toContain(
      "<nvram format='qcow2'/>",
    );
    expect(restoredDomain({ inactive: source, live: null }, clone).xml).toContain(
      "<nvram type='file' format='qcow2'><source file='/out/web.nvram'/></nvram>",
    );
  });
});

it('names raw images and block devices as what they are', () => {
  const disks = new Map<string, RestoredImage>([
    ['vda', { path: '/dev/vg/vda', format: 'raw', isDevice: true }],
    ['vdb', { path: '/out/vdb.raw', format: 'raw', isDevice: false }],
  ]);
  const { xml } = restoredDomain({ inactive: RICH, live: null }, { ...SAME, disks });
  const found = (element: string): boolean => lines(xml).some((line) => line.startsWith(element));
  for (const element of ["<source dev='/dev/vg/vda'", "<source file='/out/vdb.raw'"]) expect(found(element)).toBe(true);
  expect(xml.match(/type=["']qcow2["']/)).toBe(null);
  expect(xml).toMatch(/<disk [^>]*type=["']block["']/);
});

describe('disks that the definition does not have', () => {
  const plugged = RICH.replace(
    "<target dev='vdc' bus='virtio'/>",
    `<target dev='vde' bus='virtio'/>
      <alias name='virtio-disk4'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x09' function='0x0'/>`,
  );

  it('are taken from the domain as it ran', () => {
    const disks = new Map([...SAME.disks, ['vde', qcow2('/out/vde.qcow2')], ['vdf', qcow2('/out/vdf.qcow2')]]);
    const { xml, notes } = restoredDomain({ inactive: RICH, live: plugged }, { ...SAME, disks });
    expect(parseDomain(xml).disks.at(-1)).toMatchObject({
      target: 'vde',
      alias: null,
      format: 'qcow2',
      source: { path: '/out/vde.qcow2' },
    });
    expect(xml).not.toContain("slot='0x09'");
    expect(notes.some((note) => note.startsWith('vde was plugged in'))).toBe(true);
    expect(notes.some((note) => note.startsWith('vdf was restored'))).toBe(true);
  });
});

it('media are what the guest only reads', () => {
  expect(mediaOf(RICH)).toEqual(['/images/shared.img', '/iso/there.iso', '/dev/sr7']);
});

describe('a domain without a network', () => {
  const cards = `<interface type='bridge'><source bridge='br0'/><link state='up'/></interface>
    <interface type='hostdev'><source/></interface>
    <interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface>
    <hostdev mode='subsystem' type='pci'/>
    <tpm model`;
  const { xml, notes } = restoredDomain(
    { inactive: RICH.replace('<tpm model', cards), live: null },
    { ...SAME, unlinked: true },
  );

  it('keeps its cards with their links down, and has none whose link would be up', () => {
    expect(xml.match(/<interface /g)).toHaveLength(2);
    expect(xml.match(/<link state='down'\/>/g)).toHaveLength(2);
    expect(xml).not.toContain("state='up'");
    expect(xml).toContain("<mac address='52:54:00:12:34:56'/>");
    for (const gone of ['hostdev', 'vdpa', 'qemu:arg']) expect(xml).not.toContain(gone);
    const said = notes.filter((note) => note.endsWith('is left out, for it may be a link to a network'));
    expect(said.map((note) => note.split(' is left out')[0])).toEqual([
      'a network card of type hostdev',
      'a network card of type vdpa',
      'a device of the host',
      'what QEMU was given by arguments of its own',
    ]);
  });
});
