/** Jobs of somebody else on a disk of a domain, slow enough to be there for as long as a test needs them. */
import type { DomainScenario } from './domain-scenario.js';
import { write } from './lab/guest-writes.js';
import type { LibvirtLab } from './lab/libvirt.js';

const MiB = 1024 * 1024;

export type HeldBy = 'Block Pull' | 'Block Copy' | 'Active Block Commit';

/** The first disk gets an external snapshot where the job needs one. Resolves to what ends the job. */
export async function holdDisk(
  lab: LibvirtLab,
  { domain, fileOf }: DomainScenario,
  type: HeldBy,
): Promise<() => Promise<void>> {
  const file = fileOf('vda');
  const at = [domain.uuid, 'vda', '--bandwidth', '1'];
  // A pull and a commit are at once at an end where there is nothing to copy.
  const fill = (pattern: number): Promise<unknown> => write(domain, 'vda', { offset: 0, length: 48 * MiB, pattern });
  await fill(0x51);
  if (type !== 'Block Copy') {
    const snapshot = ['--disk-only', '--no-metadata', '--diskspec', `vda,file=${file}.above`];
    await lab.virsh(['snapshot-create-as', domain.uuid, 'held', ...snapshot, '--diskspec', 'vdb,snapshot=no']);
  }
  if (type === 'Active Block Commit') await fill(0x52);
  const copy = ['--dest', `${file}.copy`, '--format', 'qcow2', '--transient-job'];
  const begin: Readonly<Record<HeldBy, readonly string[]>> = {
    'Block Pull': ['blockpull', ...at],
    'Block Copy': ['blockcopy', ...at, ...copy],
    'Active Block Commit': ['blockcommit', ...at, '--active'],
  };
  await lab.virsh(begin[type]);
  const { stdout } = await lab.virsh(['blockjob', domain.uuid, 'vda', '--info', '--raw']);
  if (!stdout.includes(`type=${type}\n`)) throw new Error(`no ${type}: ${stdout}`);
  return async () => {
    await lab.virsh(['blockjob', domain.uuid, 'vda', '--abort']);
  };
}
