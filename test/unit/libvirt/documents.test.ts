/** Documents as libvirt 9.0 wrote them, and ours as it accepted them. */
import { describe, expect, it } from 'vitest';
import { exportOf, parseBackup, pullBackupXml, pushBackupXml } from '../../../src/libvirt/backup-xml.js';
import { checkpointXml, parseCheckpoint } from '../../../src/libvirt/checkpoint-xml.js';
import { parseDomain } from '../../../src/libvirt/domain-xml.js';
import { LibvirtAnswerError } from '../../../src/libvirt/errors.js';
import { parseJobInfo } from '../../../src/libvirt/job-info.js';

const RUNNING = `<domain type='qemu' id='15' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>we ird &amp; &lt;"'ü</name>
  <uuid>74A1B5C1-eab1-4c2e-ba63-a11b7cc4e265</uuid>
  <memory unit='KiB'>65536</memory>
  <vcpu placement='static'>2</vcpu>
  <iothreads>3</iothreads>
  <os>
    <type arch='x86_64' machine='pc-i440fx-7.2'>hvm</type>
    <nvram>/var/lib/libvirt/qemu/nvram/x_VARS.fd</nvram>
  </os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap'/>
      <source file='/images/g-vda.qcow2' index='3'/>
      <backingStore type='file' index='4'>
        <format type='qcow2'/>
        <source file='/images/g-base.qcow2'/>
        <backingStore/>
      </backingStore>
      <target dev='vda' bus='virtio'/>
      <serial>007</serial>
      <alias name='virtio-disk0'/>
    </disk>
    <disk type='block' device='lun'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/mapper/x'/>
      <target dev='sda' bus='scsi'/>
      <shareable/>
    </disk>
    <disk type='network' device='disk'>
      <driver name='qemu' type='raw'/>
      <source protocol='rbd' name='pool/image'><host name='mon1' port='6789'/></source>
      <target dev='vdb' bus='virtio'/>
      <transient/>
    </disk>
    <disk type='volume' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source pool='default' volume='v.qcow2'/>
      <target dev='vdc' bus='virtio'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='hda' bus='ide'/>
      <readonly/>
      <alias name='ide0-0-0'/>
    </disk>
    <channel type='unix'>
      <source mode='bind' path='/run/x'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
    </channel>
    <channel type='unix'><target type='virtio' name='lab.control.0' state='disconnected'/></channel>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
  </devices>
  <qemu:commandline><qemu:arg value='-x'/></qemu:commandline>
<seclabel type='none' model='none'/>
  <seclabel type='dynamic' model='dac' relabel='yes'>
    <label>+64055:+106</label>
  </seclabel>
</domain>
`;

describe('parseDomain', () => {
  it('tells names, disks with their chains, the agent and what else belongs to the definition', () => {
    expect(parseDomain(RUNNING)).toEqual({
      name: `we ird & <"'ü`,
      uuid: '74a1b5c1-eab1-4c2e-ba63-a11b7cc4e265',
      type: 'qemu',
      active: true,
      nvram: '/var/lib/libvirt/qemu/nvram/x_VARS.fd',
      tpm: 'default',
      unlisted: [],
      passedThrough: [],
      machine: 'pc-i440fx-7.2',
      memory: 65_536 * 1024,
      cpus: 2,
      iothreads: 3,
      owner: { uid: 64055, gid: 106 },
      overlayRecords: [],
      agent: 'connected',
      disks: [
        {
          ...PLAIN,
          target: 'vda',
          format: 'qcow2',
          source: { type: 'file', path: '/images/g-vda.qcow2', description: '/images/g-vda.qcow2' },
          serial: '007',
          alias: 'virtio-disk0',
          backing: [
            {
              format: 'qcow2',
              source: { type: 'file', path: '/images/g-base.qcow2', description: '/images/g-base.qcow2' },
            },
          ],
        },
        {
          ...PLAIN,
          target: 'sda',
          device: 'lun',
          bus: 'scsi',
          format: 'raw',
          source: { type: 'block', path: '/dev/mapper/x', description: '/dev/mapper/x' },
          shareable: true,
        },
        {
          ...PLAIN,
          target: 'vdb',
          format: 'raw',
          source: {
            ...{ type: 'network', path: null, description: 'rbd:pool/image' },
            network: {
              ...{ protocol: 'rbd', name: 'pool/image', secret: false, tls: false },
              hosts: [{ transport: 'tcp', name: 'mon1', port: '6789', socket: null }],
              ...{ snapshot: null, config: null, initiator: null },
            },
          },
          transient: true,
          encrypted: false,
        },
        {
          ...PLAIN,
          target: 'vdc',
          format: 'qcow2',
          source: {
            ...{ type: 'volume', path: null, description: 'volume default/v.qcow2' },
            volume: { pool: 'default', name: 'v.qcow2' },
          },
        },
        { ...PLAIN, target: 'hda', device: 'cdrom', bus: 'ide', readOnly: true, alias: 'ide0-0-0' },
      ],
    });
  });

  it('a domain that is off, without an agent and without disks', () => {
    const off = `<domain type='kvm'><name>a</name><uuid>74a1b5c1-eab1-4c2e-ba63-a11b7cc4e265</uuid><devices/></domain>`;
    expect(parseDomain(off)).toMatchObject({
      disks: [],
      agent: 'absent',
      nvram: null,
      tpm: 'none',
      memory: null,
      iothreads: 0,
      owner: null,
    });
    const channel = `<devices><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel></devices>`;
    expect(parseDomain(off.replace('<devices/>', channel)).agent).toBe('configured');
  });

  it('refuses what is no whole domain', () => {
    expect(() => parseDomain(RUNNING.slice(0, 900))).toThrow(LibvirtAnswerError);
    expect(() => parseDomain('<domain><name>a</name></domain>')).toThrow(LibvirtAnswerError);
  });
});

const PLAIN = {
  device: 'disk',
  bus: 'virtio',
  format: null,
  source: null,
  readOnly: false,
  shareable: false,
  transient: false,
  encrypted: false,
  serial: null,
  alias: null,
  backing: [],
};

describe('checkpoints', () => {
  const dumped = `<domaincheckpoint>
  <name>m2</name>
  <parent>
    <name>m1</name>
  </parent>
  <creationTime>1795285821</creationTime>
  <disks>
    <disk name='vda' checkpoint='bitmap' bitmap='m2' size='1048576'/>
    <disk name='vdb' checkpoint='bitmap' bitmap='m2'/>
    <disk name='vdc' checkpoint='no'/>
  </disks>
</domaincheckpoint>
`;

  it('are read, with the size of each bitmap that is usable', () => {
    expect(parseCheckpoint(dumped, { sized: true })).toEqual({
      name: 'm2',
      parent: 'm1',
      creationTime: 1795285821,
      disks: [
        { target: 'vda', bitmap: 'm2', changedBytes: 1048576 },
        { target: 'vdb', bitmap: 'm2', changedBytes: null },
      ],
    });
  });

  it('are written so that they read back the same', () => {
    const xml = checkpointXml({ name: 'n', disks: ['vda'], without: ['vdb'], description: 'a & b', creationTime: 7 });
    expect(xml).toContain('<description>a &amp; b</description>');
    expect(parseCheckpoint(xml, { sized: false })).toEqual({
      name: 'n',
      parent: null,
      creationTime: 7,
      disks: [{ target: 'vda', bitmap: 'n', changedBytes: undefined }],
    });
  });
});

describe('backups', () => {
  it('a pull names socket, exports, parents and scratch files', () => {
    const disks = [
      { target: 'vda', since: 'k1', scratch: `/s/a 'b" & <c>` },
      { target: 'vdb', since: null, scratch: '/s/b', exportName: 'x y' },
    ];
    const running = parseBackup(pullBackupXml({ socket: '/run/a & b.sock', disks }));
    expect(running).toEqual({
      mode: 'pull',
      socket: '/run/a & b.sock',
      disks: [
        { target: 'vda', since: 'k1', exportName: null, exportBitmap: null, file: `/s/a 'b" & <c>` },
        { target: 'vdb', since: null, exportName: 'x y', exportBitmap: null, file: '/s/b' },
      ],
    });
    expect(disks.map(exportOf)).toEqual([
      { exportName: 'vda', dirtyContext: 'qemu:dirty-bitmap:backup-vda' },
      { exportName: 'x y', dirtyContext: null },
    ]);
  });

  it('a push names the target files', () => {
    const xml = pushBackupXml({ disks: [{ target: 'vda', since: 'k1', file: '/t/x' }] });
    expect(parseBackup(xml)).toEqual({
      mode: 'push',
      socket: null,
      disks: [{ target: 'vda', since: 'k1', exportName: null, exportBitmap: null, file: '/t/x' }],
    });
  });

  it('of one that runs, disks that take no part are left out', () => {
    const dumped = `<domainbackup mode='pull'>
  <incremental>k2</incremental>
  <server transport='unix' socket='/lab/nbd.sock'/>
  <disks>
    <disk name='vdb' backup='yes' type='file' backupmode='incremental' incremental='k2' exportname='vdb' exportbitmap='backup-vdb' index='13'>
      <driver type='qcow2'/>
      <scratch file='/images/vdb.scratch'/>
    </disk>
    <disk name='hda' backup='no'/>
  </disks>
</domainbackup>`;
    expect(parseBackup(dumped)).toEqual({
      mode: 'pull',
      socket: '/lab/nbd.sock',
      disks: [
        {
          target: 'vdb',
          since: 'k2',
          exportName: 'vdb',
          exportBitmap: 'backup-vdb',
          file: '/images/vdb.scratch',
        },
      ],
    });
  });
});

describe('parseJobInfo', () => {
  const pull = 'Job type: 2\noperation: 9\ntime_elapsed: 549\ndisk_temp_used: 65536\ndisk_temp_total: 201326592\n\n';

  it('a pull that runs, and one that was ended', () => {
    expect(parseJobInfo(pull)).toEqual({
      state: 'running',
      operation: 'backup',
      elapsedMs: 549,
      copied: null,
      scratch: { bytes: 65536, total: 201326592 },
      error: null,
    });
    const ended = pull.replace('type: 2', 'type: 3').trimEnd() + '\nsuccess: 1\nerrmsg: Operation canceled\n';
    expect(parseJobInfo(ended)).toMatchObject({ state: 'cancelled', error: 'Operation canceled' });
  });

  it('a push that is done, one that failed, and none', () => {
    const push = 'Job type: 3\noperation: 9\ntime_elapsed: 74\ndisk_total: 64\ndisk_processed: 60\ndisk_remaining: 4\n';
    expect(parseJobInfo(`${push}success: 1\n`)).toMatchObject({ state: 'completed', copied: { bytes: 60, total: 64 } });
    const failed = `${push}success: 0\nerrmsg: No space left on device\n`;
    expect(parseJobInfo(failed)).toMatchObject({ state: 'failed', error: 'No space left on device' });
    expect(parseJobInfo('Job type: 0\n\n')).toMatchObject({ state: 'none', operation: null, scratch: null });
  });

  it('another operation keeps its number; anything else is refused', () => {
    expect(parseJobInfo('Job type: 1\noperation: 3\n')).toMatchObject({ state: 'running', operation: 3 });
    expect(() => parseJobInfo('Job type:         None\n')).toThrow(LibvirtAnswerError);
  });
});

describe('devices that are no disks of a definition', () => {
  const parse = (devices: string, more = '') =>
    parseDomain(
      `<domain type='kvm'><name>x</name><uuid>74a1b5c1-eab1-4c2e-ba63-a11b7cc4e265</uuid>${more}<devices>${devices}</devices></domain>`,
    );
  const memory = (model: string, access: string, more = '') =>
    `<memory model='${model}'${access}><source><path>/m</path></source><target><size>1</size>${more}</target></memory>`;
  const names = (devices: string, more?: string) => parse(devices, more).unlisted.map(({ name }) => name);

  it('are named where the guest keeps data on them', () => {
    expect(
      names(
        `<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/><address bus='0' target='1' unit='2'/></source></hostdev>
         <hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host1'/><address bus='0' target='0' unit='0'/></source><readonly/></hostdev>
         <hostdev mode='subsystem' type='scsi'><source protocol='iscsi' name='iqn.x/1'><host name='h'/></source></hostdev>
         <hostdev mode='subsystem' type='scsi_host'><source protocol='vhost' wwpn='naa.5'/></hostdev>`,
      ),
    ).toEqual(['scsi_host0:0:1:2', 'iqn.x/1', 'naa.5']);
  });

  it('persistent memory as libvirt 9.0 gives it to QEMU', () => {
    const shared = "<memoryBacking><access mode='shared'/></memoryBacking>";
    expect(names(memory('nvdimm', ''))).toEqual([]);
    expect(names(memory('nvdimm', ''), shared)).toEqual(['/m']);
    expect(names(memory('nvdimm', " access='private'"), shared)).toEqual([]);
    expect(names(memory('nvdimm', " access='shared'"))).toEqual(['/m']);
    expect(names(memory('nvdimm', " access='shared'", '<readonly/>'))).toEqual([]);
    expect(names(memory('virtio-pmem', " access='shared'"))).toEqual(['/m']);
    expect(names(memory('dimm', " access='shared'"))).toEqual([]);
  });

  it('are passed through where nobody can tell', () => {
    const devices = `<hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x06' slot='0x02' function='0x1'/></source></hostdev>
      <hostdev mode='subsystem' type='usb'><source><vendor id='0x1234'/><product id='0xbeef'/></source></hostdev>`;
    expect(parse(devices)).toMatchObject({ unlisted: [], passedThrough: ['pci 0000:06:02.1', 'usb 1234:beef'] });
  });

  it('a vhost-user disk has a source, which is no path of an image', () => {
    const [disk] = parse(
      "<disk type='vhostuser' device='disk'><source type='unix' path='/s'/><target dev='vda'/></disk>",
    ).disks;
    expect(disk?.source).toEqual({ type: 'vhostuser', path: null, description: '/s' });
  });
});
