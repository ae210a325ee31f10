import { expect, it } from 'vitest';
import { mayPass } from '../../../src/backends/libvirt/inspect-for-doctor.js';
import { scratchPlace } from '../../../src/repository/scratch-place.js';

it('scratch images lie beside the image, where --fleece-dir says, or where temporary files do', () => {
  expect(scratchPlace(null, { file: '/images/a.qcow2' })).toBe('/images');
  expect(scratchPlace('/scratch/', { file: '/images/a.qcow2' })).toBe('/scratch');
  expect(scratchPlace(null, { file: '/dev/vg/lv' })).toBe('/var/tmp');
  expect(scratchPlace(null, { file: 'rbd:pool/image' })).toBe('/var/tmp');
  expect(scratchPlace(null, { file: '/device/a.qcow2' })).toBe('/device');
});

it('whether a user may pass through a folder tells its mode', () => {
  const folder = { mode: 0o40710, uid: 1, gid: 2 };
  expect(mayPass(folder, { uid: 1, gid: 9 })).toBe(true);
  expect(mayPass(folder, { uid: 9, gid: 2 })).toBe(true);
  expect(mayPass(folder, { uid: 9, gid: 9 })).toBe(false);
  expect(mayPass({ ...folder, mode: 0o40601 }, { uid: 1, gid: 2 })).toBe(false);
});
