/** Whom the QEMUs of a libvirt run as. */
import type { Virsh } from './virsh.js';
import { attribute, find, findAll, parseXml, textAt } from './xml.js';

/** By what it says of itself; null where it does not tell. `type` of the domain: `kvm`, `qemu`. */
export async function qemuOwner(
  virsh: Virsh,
  type: string,
): Promise<{ readonly uid: number; readonly gid: number } | null> {
  const host = find(parseXml(await virsh('capabilities'), 'capabilities'), 'host');
  const model = findAll(host, 'secmodel').find((each) => textAt(each, 'model') === 'dac');
  const labels = findAll(model, 'baselabel');
  const label = labels.find((each) => attribute(each, 'type') === type) ?? labels[0];
  const [, uid, gid] = /^\+(\d+):\+(\d+)$/.exec(label?.text.trim() ?? '') ?? [];
  return uid === undefined || gid === undefined ? null : { uid: Number(uid), gid: Number(gid) };
}
