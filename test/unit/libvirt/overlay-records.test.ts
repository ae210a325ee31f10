import { describe, expect, it } from 'vitest';
import type { OverlayRecord } from '../../../src/core/overlay-record.js';
import { keepOverlayRecords, overlayRecordsIn } from '../../../src/libvirt/overlay-records.js';
import { parseXml } from '../../../src/libvirt/xml.js';

const RECORDS: readonly OverlayRecord[] = [
  {
    overlay: `/o/we ird & <"'ü`,
    below: [
      { image: '/i/a', file: { bytes: '1', modified: '1795953600000000001' } },
      { image: 'rbd:pool/a', file: null },
    ],
    changing: true,
  },
  { overlay: '/o/b', below: [], changing: false, told: true },
];

async function said(active: boolean, records: readonly OverlayRecord[]): Promise<readonly string[]> {
  const calls: (readonly string[])[] = [];
  const virsh = (command: string, args: readonly string[] = []): Promise<string> => {
    calls.push([command, ...args]);
    return Promise.resolve('');
  };
  await keepOverlayRecords(virsh, { uuid: 'u', active }, records);
  expect(calls).toHaveLength(1);
  return calls[0] ?? [];
}

describe('what is recorded of overlays in the domain', () => {
  it('comes back as it went in, with the prefix that libvirt puts before each name', async () => {
    const xml = (await said(true, RECORDS)).at(-1) ?? '';
    const prefixed = xml.replace(/<(\/?)(overlays|overlay|below)\b/g, '<$1qmpbackup:$2');
    const domain = parseXml(`<domain><uuid>U</uuid><metadata>${prefixed}</metadata></domain>`, 'domain');
    expect(overlayRecordsIn(domain)).toEqual(RECORDS);
    const clone = parseXml(`<domain><uuid>V</uuid><metadata>${prefixed}</metadata></domain>`, 'domain');
    expect(overlayRecordsIn(clone)).toEqual([]);
  });

  it('is kept for the next start, too, and goes when there is none', async () => {
    expect(await said(true, RECORDS)).toEqual(expect.arrayContaining(['metadata', '--live', '--config', '--set']));
    expect(await said(false, RECORDS)).not.toContain('--live');
    expect(await said(true, [])).toEqual(expect.arrayContaining(['--remove']));
  });

  it('is nothing where the domain has none, or the metadata of others', () => {
    for (const metadata of [
      '',
      '<metadata/>',
      '<metadata><other:overlays><other:overlay/></other:overlays></metadata>',
    ])
      expect(overlayRecordsIn(parseXml(`<domain><uuid>u</uuid>${metadata}</domain>`, 'domain'))).toEqual([]);
  });
});
