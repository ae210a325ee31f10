import { expect, it } from 'vitest';
import { qemuOwner } from '../../../src/libvirt/qemu-owner.js';

const answer = (models: string) => () => Promise.resolve(`<capabilities><host>${models}</host></capabilities>`);
const DAC = `<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+107</baselabel><baselabel type='qemu'>+1:+2</baselabel></secmodel>`;

it('whom QEMU runs as is what libvirt says of its own security model', async () => {
  const none = `<secmodel><model>none</model><doi>0</doi></secmodel>`;
  expect(await qemuOwner(answer(none + DAC), 'kvm')).toEqual({ uid: 64055, gid: 107 });
  expect(await qemuOwner(answer(DAC), 'qemu')).toEqual({ uid: 1, gid: 2 });
  expect(await qemuOwner(answer(none), 'kvm')).toBeNull();
});
