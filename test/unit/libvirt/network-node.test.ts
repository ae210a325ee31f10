import { describe, expect, it } from 'vitest';
import { parseDomain } from '../../../src/libvirt/domain-xml.js';
import { networkNode } from '../../../src/libvirt/network-node.js';

function nodeOf(source: string, beside = ''): object {
  const disk = `<disk type='network' device='disk'><driver type='raw'/>${source}${beside}<target dev='vda'/></disk>`;
  const xml = `<domain type='kvm'><name>a</name><uuid>u</uuid><devices>${disk}</devices></domain>`;
  const network = parseDomain(xml).disks[0]?.source?.network;
  if (!network) throw new Error('no network source');
  return networkNode(network);
}

describe('a network disk as a block node', () => {
  it('over NBD', () => {
    expect(nodeOf(`<source protocol='nbd' name='e x'><host name='h' port='1'/></source>`)).toEqual({
      ...{ driver: 'nbd', server: { type: 'inet', host: 'h', port: '1' }, export: 'e x' },
    });
    expect(nodeOf(`<source protocol='nbd'><host transport='unix' socket='/s'/></source>`)).toEqual({
      ...{ driver: 'nbd', server: { type: 'unix', path: '/s' } },
    });
    expect(nodeOf(`<source protocol='nbd'><host name='h'/></source>`)).toMatchObject({ server: { port: '10809' } });
  });

  it('in a Ceph cluster, by the hosts that are named or by its own configuration', () => {
    const hosts = `<host name='m1' port='3300'/><host name='m2'/>`;
    const more = `<snapshot name='s'/><config file='/etc/ceph/x.conf'/>`;
    expect(nodeOf(`<source protocol='rbd' name='pool/ns/image'>${hosts}${more}</source>`)).toEqual({
      ...{ driver: 'rbd', pool: 'pool', namespace: 'ns', image: 'image', snapshot: 's', conf: '/etc/ceph/x.conf' },
      server: [
        { host: 'm1', port: '3300' },
        { host: 'm2', port: '6789' },
      ],
    });
    expect(nodeOf(`<source protocol='rbd' name='pool/image'/>`)).toEqual({
      ...{ driver: 'rbd', pool: 'pool', image: 'image' },
    });
    expect(nodeOf(`<source protocol='rbd' name='image'/>`)).toHaveProperty('why');
  });

  it('over iSCSI', () => {
    const iqn = 'iqn.2020-01.org.example:t';
    expect(nodeOf(`<source protocol='iscsi' name='${iqn}/2'><host name='h' port='5'/></source>`)).toEqual({
      ...{ driver: 'iscsi', transport: 'tcp', portal: 'h:5', target: iqn, lun: 2 },
    });
    const initiator = `<initiator><iqn name='iqn.i'/></initiator>`;
    expect(nodeOf(`<source protocol='iscsi' name='${iqn}'><host name='fd00::1'/>${initiator}</source>`)).toMatchObject({
      portal: '[fd00::1]:3260',
      lun: 0,
      'initiator-name': 'iqn.i',
    });
  });

  it('is none where only libvirt has what it takes to get there', () => {
    const auth = `<auth username='u'><secret type='ceph' usage='x'/></auth>`;
    expect(nodeOf(`<source protocol='rbd' name='p/i'>${auth}</source>`)).toHaveProperty('why');
    expect(nodeOf(`<source protocol='rbd' name='p/i'/>`, auth)).toHaveProperty('why');
    expect(nodeOf(`<source protocol='nbd' tls='yes'><host name='h'/></source>`)).toHaveProperty('why');
    expect(nodeOf(`<source protocol='ssh' name='p'><host name='h'/></source>`)).toHaveProperty('why');
    expect(nodeOf(`<source protocol='nbd'><host name='h' transport='rdma'/></source>`)).toHaveProperty('why');
  });
});
