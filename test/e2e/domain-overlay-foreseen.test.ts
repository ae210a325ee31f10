import { join } from 'node:path';
import { expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { type OverlaidDomain, overlaidDomain } from '../support/overlaid-domain.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** What refuses the next run of a domain whose overlays track is told by doctor before it. */
const lab = useLibvirt();

async function tracked(): Promise<OverlaidDomain> {
  const vm = await overlaidDomain(lab);
  await vm.track('auto');
  expect(await toldBy(vm)).toEqual([]);
  return vm;
}

async function toldBy(vm: OverlaidDomain): Promise<readonly string[]> {
  const { stdout } = await expectCli(0, [...vm.vm, 'doctor', '--target', vm.target]);
  return stdout.split('\n').filter((line) => line.includes('the next backup by --method overlay is refused'));
}

/** The words of doctor are those of the run, which changes nothing. */
async function expectRefused(vm: OverlaidDomain, words: string): Promise<void> {
  const [line = '', ...more] = await toldBy(vm);
  expect(more).toEqual([]);
  expect(line).toMatch(/^warning/);
  expect(line).toContain(words);
  const asked = ['--method', 'overlay', '--track', 'overlay', '--overlay-dir', vm.overlays];
  const { stderr } = await expectCli(13, [...vm.vm, 'backup', '--target', vm.target, ...asked]);
  expect(stderr).toContain(words);
}

it('a snapshot that somebody took above our overlay', async () => {
  const vm = await tracked();
  const theirs = join(lab.dir, `${vm.domain.name}-theirs`);
  const others = ['vdb', 'vdc'].flatMap((disk) => ['--diskspec', `${disk},snapshot=no`]);
  const mine = ['--disk-only', '--no-metadata', '--diskspec', `vda,file=${theirs}`, ...others];
  await lab.virsh(['snapshot-create-as', vm.domain.uuid, 'theirs', ...mine]);
  await expectRefused(vm, `vda has ${theirs} of somebody else above an overlay of ours`);
  await lab.virsh(['blockcommit', vm.domain.uuid, 'vda', '--active', '--shallow', '--pivot', '--wait']);
  expect(await toldBy(vm)).toEqual([]);
  await vm.track('inc');
  await vm.expectRestored();
});

it('a snapshot in our overlay', async () => {
  const vm = await tracked();
  // The raw disks run on overlays, too, so that libvirt takes one of them all.
  await lab.virsh(['snapshot-create-as', vm.domain.uuid, 'inside']);
  const lines = await toldBy(vm);
  expect(lines).toHaveLength(3);
  for (const line of lines) expect(line).toMatch(/holds a snapshot of the domain.*Delete the snapshots first/);
  await lab.virsh(['snapshot-delete', vm.domain.uuid, 'inside']);
  expect(await toldBy(vm)).toEqual([]);
});

it('a disk that is detached from the definition and not yet from the domain', async () => {
  const vm = await tracked();
  await lab.virsh(['detach-disk', vm.domain.uuid, 'vdb', '--config']);
  await expectRefused(vm, 'the definition for the next start has no such disk');
});

it('a domain that was made transient', async () => {
  const vm = await tracked();
  await lab.virsh(['undefine', vm.domain.uuid]);
  await expectRefused(vm, 'is transient');
});
