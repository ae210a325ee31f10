import { describe, expect, it } from 'vitest';
import { fleecedJobActions, pointActions, type TransactionDisk } from '../../../src/qemu/transaction.js';

const source = {
  device: 'd1',
  qdev: null,
  address: '#fmt',
  root: '#fmt',
  underJob: false,
  format: 'qcow2',
  file: 'd1.img',
  virtualSize: 1024,
  allocated: 0,
  compat: '1.1',
  encrypted: false,
  cannotTrack: null,
  bitmaps: [],
  image: { filename: 'd1.img', format: 'qcow2', 'virtual-size': 1024 },
};
const disk: TransactionDisk = {
  path: '/t/d1/INC-2.qcow2.partial',
  aio: 'threads',
  fleece: null,
  planned: {
    disk: 'd1',
    source,
    level: 'inc',
    reason: '',
    file: 'INC-2.qcow2',
    parent: null,
    compares: false,
    copyBitmap: 'old',
    newBitmap: { name: 'new', persistent: true },
    job: 'j1',
  },
};
const jobOf = (jobOnCbwError?: boolean): unknown =>
  pointActions([disk], { speed: 0, compress: false, ...(jobOnCbwError === undefined ? {} : { jobOnCbwError }) }).find(
    ({ type }) => type === 'drive-backup',
  )?.data;

describe('the job of a point', () => {
  it('breaks itself and not the write of the guest, where QEMU lets it', () => {
    expect(jobOf(true)).toMatchObject({ 'job-id': 'j1', sync: 'bitmap', 'on-cbw-error': 'break-snapshot' });
  });

  it('has no such option elsewhere: an unknown member makes QEMU refuse the transaction', () => {
    expect(jobOf(false)).not.toHaveProperty('on-cbw-error');
    expect(jobOf()).toEqual(jobOf(false));
  });

  it('waits to be ended where jobs must not end by themselves', () => {
    const data = (endOneByOne: boolean): unknown =>
      pointActions([disk], { speed: 0, compress: false, endOneByOne }).find(({ type }) => type === 'drive-backup')
        ?.data;
    expect(data(true)).toHaveProperty('auto-finalize', false);
    expect(data(false)).not.toHaveProperty('auto-finalize');
  });

  const nodes = { scratch: 's', filter: 'f', snapshot: 'snp' };
  const fleeced: TransactionDisk = { ...disk, fleece: { qdev: 'q', scratch: '/s', limit: 1, nodes } };

  it('copies single clusters where longer pieces are answered wrongly, and only where it is fleeced', () => {
    const options = { speed: 0, compress: false, clusterReads: true };
    const [job] = fleecedJobActions([fleeced], options);
    expect(job?.data).toMatchObject({ device: 'snp', 'x-perf': { 'max-chunk': 65_536 } });
    for (const { data } of pointActions([disk], options)) expect(data).not.toHaveProperty('x-perf');
  });

  it('of a disk that is fleeced is not begun at the instant, and copies what the bitmap held then', () => {
    const options = { speed: 0, compress: false };
    const actions = pointActions([fleeced, disk], options);
    expect(actions.map(({ type }) => type)).toEqual([
      'block-dirty-bitmap-add',
      'block-dirty-bitmap-merge',
      'drive-backup',
    ]);
    expect(actions.at(-1)?.data).toMatchObject({ device: '#fmt', bitmap: 'old' });
    const later = fleecedJobActions([fleeced, disk], options);
    expect(later.map(({ data }) => data)).toEqual([expect.objectContaining({ device: 'snp', bitmap: 'work' })]);
  });
});
