import { describe, expect, it } from 'vitest';
import { lostCheckpoints } from '../../../src/core/lost-checkpoints.js';
import { bitmap, catalog, entry, point, source } from '../../support/builders.js';

const NAME = 'qmpbackup-00112233445566aa-c1';
const full = (disk: string) => entry(disk, 'FULL-1.qcow2', { bitmap: { name: NAME, persistent: true } });
const disks = (more = {}) => ['vda', 'vdb'].map((device) => source(device, { address: device, ...more }));

describe('checkpoints that libvirt has forgotten', () => {
  const known = catalog([point(0, [full('vda'), full('vdb')])]);

  it('are those that the newest files need and no disk shows, with the disks that the domain still has', () => {
    expect(lostCheckpoints(known, disks())).toMatchObject([{ checkpoint: NAME, disks: ['vda', 'vdb'] }]);
    expect(lostCheckpoints(known, disks().slice(1))).toMatchObject([{ checkpoint: NAME, disks: ['vdb'] }]);
  });

  it('are none where libvirt shows them, where nothing is known, and where the disks are gone', () => {
    expect(lostCheckpoints(known, disks({ bitmaps: [bitmap(NAME)] }))).toEqual([]);
    expect(lostCheckpoints(undefined, disks())).toEqual([]);
    expect(lostCheckpoints(known, [source('vdz', { address: 'vdz' })])).toEqual([]);
  });
});
