import { expect, it } from 'vitest';
import type { DomainRun } from '../../../../../src/backends/libvirt/domain-method.js';
import { overlayMethod } from '../../../../../src/backends/libvirt/methods/overlay.js';
import type { Planned } from '../../../../../src/backends/backup-run.js';
import { parseDomain } from '../../../../../src/libvirt/domain-xml.js';
import type { Virsh } from '../../../../../src/libvirt/virsh.js';
import { source } from '../../../../support/builders.js';

function domainXml(...targets: readonly string[]): string {
  const disks = targets.map(
    (target) =>
      `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/i/${target}'/><target dev='${target}'/></disk>`,
  );
  return `<domain type='qemu' id='1'><name>d</name><uuid>u</uuid><devices>${disks.join('')}</devices></domain>`;
}

it('a disk that was plugged in since the domain was looked at is in no snapshot, and one that was unplugged is not named', async () => {
  const documents: string[] = [];
  const virsh: Virsh = (command, ...more) => {
    if (command === 'snapshot-create') documents.push(...Object.values(more[1]?.documents ?? {}));
    return Promise.resolve(command === 'dumpxml' ? domainXml('vda', 'vdd') : '');
  };
  const run = {
    session: { virsh, uuid: 'u', domain: { ...parseDomain(domainXml('vda', 'vdb')), connect: null } },
    options: { track: 'none', overlayDir: '/o' },
    attempt: '0123456789ab',
    signal: new AbortController().signal,
  } as unknown as DomainRun;
  const planned = {
    plan: { disks: [{ disk: 'vda', source: source('vda', { address: 'vda' }), newBitmap: null }] },
  } as unknown as Planned;
  const copy = overlayMethod('none').copyFor(run, planned);
  await copy.ready?.();
  await copy.begin([], null);
  const [xml = ''] = documents;
  expect([...xml.matchAll(/name='(\w+)' snapshot='(\w+)'/g)].map(([, ...words]) => words.join(' '))).toEqual([
    'vda external',
    'vdd no',
  ]);
});
