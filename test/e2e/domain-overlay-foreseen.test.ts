import { mkdir, readdir, rename, rm, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { domainScenario } from '../support/domain-scenario.js';
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

describe('overlays and backups in one folder', () => {
  const asked = (vm: OverlaidDomain, overlays: string): string[] => [
    ...[...vm.vm, 'backup', '--target', vm.target, '--method', 'overlay', '--track', 'overlay'],
    ...['--overlay-dir', overlays],
  ];

  it('are refused, whichever is inside of the other, also through links, and nothing is changed', async () => {
    const vm = await overlaidDomain(lab);
    const { overlays } = vm;
    await vm.writeAll(1, 0x11);
    const inside = join(vm.target, 'overlays');
    const link = join(lab.dir, `${vm.domain.name}-link`);
    await symlink(vm.target, link);
    for (const folder of [vm.target, inside, join(link, 'overlays')]) {
      for (const more of [[], ['--dry-run']]) {
        const { stderr } = await expectCli(13, [...asked(vm, folder), ...more]);
        expect(stderr).toMatch(/the folder of the overlays, .*, is inside of the target .*another --overlay-dir/s);
      }
    }
    expect((await expectCli(13, asked(vm, lab.dir))).stderr).toMatch(/the target .* is inside of the folder of the/);
    await vm.expectLayers(0);
    expect(await readdir(lab.dir)).not.toContain(vm.target.split('/').pop());

    // Of another VM, which is known by its catalog.
    await vm.track('auto');
    const elsewhere = join(lab.dir, `${vm.domain.name}-elsewhere`);
    const other = [...vm.vm, 'backup', '--target', elsewhere, '--level', 'copy', '--method', 'overlay'];
    const { stderr } = await expectCli(13, [...other, '--overlay-dir', inside]);
    expect(stderr).toContain(`the folder of the overlays, ${inside}, is inside of the target ${vm.target}`);
    expect(await readdir(overlays)).toHaveLength(3);
  });

  it('are told of by doctor, where the target came to lie there later', async () => {
    const vm = await tracked();
    const target = join(vm.overlays, 'target');
    await rename(vm.target, target);
    const { stdout } = await expectCli(0, [...vm.vm, 'doctor', '--target', target]);
    expect(stdout).toMatch(/^warning .*the target .* is inside of the folder of the overlays.*consolidate-source/m);
    const elsewhere = join(lab.dir, `${vm.domain.name}-overlays`);
    await mkdir(elsewhere);
    await expectCli(0, [...vm.vm, 'backup', '--target', target, ...asked(vm, elsewhere).slice(-6)]);
    expect((await expectCli(0, [...vm.vm, 'doctor', '--target', target])).stdout).not.toMatch(/is inside of/);
  });

  it('are not told of where the overlays lie beside their images, as where no folder is named', async () => {
    const { vm, fileOf, ...scenario } = await domainScenario(lab);
    const target = join(dirname(fileOf('vda')), 'backup');
    await scenario.backup('auto', '--target', target, '--method', 'overlay', '--track', 'overlay');
    const { stdout } = await expectCli(0, [...vm, 'doctor', '--target', target]);
    expect(stdout).toMatch(/^info .*the overlays in .* hold/m);
    expect(stdout).not.toMatch(/is inside of/);
  });
});

it('a folder of overlays that is not there while the domain is off: it has what the guest wrote since the last run', async () => {
  const vm = await tracked();
  await vm.writeAll(2, 0x22);
  await vm.domain.destroy();
  const elsewhere = `${vm.overlays}-elsewhere`;
  await rename(vm.overlays, elsewhere);
  const asked = [...vm.vm, 'backup', '--target', vm.target];
  const tracking = ['--method', 'overlay', '--track', 'overlay', '--overlay-dir', vm.overlays];
  for (const more of [[], ['--dry-run'], tracking]) {
    const { stderr } = await expectCli(13, [...asked, ...more]);
    expect(stderr).toMatch(/vda is on the overlay .*not there: it holds all that the guest wrote since the last run/);
    expect(stderr).toContain(`Mount ${vm.overlays} again`);
    expect(stderr).toContain('Do not start the domain on the image below the overlay');
  }
  const { stdout } = await expectCli(1, [...vm.vm, 'doctor', '--target', vm.target]);
  const lines = stdout.split('\n').filter((line) => /^error +vd[abc]: /.test(line));
  expect(lines).toHaveLength(3);
  for (const line of lines)
    expect(line).toMatch(/all that the guest wrote since the last run .*Mount .* again, .*Do not start the domain/);
  // As a mount that is dead: there is something, and nobody can look at it.
  await symlink(vm.overlays, vm.overlays);
  const { stderr } = await expectCli(13, asked);
  expect(stderr).toMatch(
    /vda is on the overlay .*, which cannot be looked at \(cannot look at .*\): it holds all that the guest/,
  );
  expect((await expectCli(1, [...vm.vm, 'doctor', '--target', vm.target])).stdout).toMatch(/^error +vda: .*cannot be/m);
  await rm(vm.overlays);
  await rename(elsewhere, vm.overlays);
  await vm.domain.start();
  await vm.track('inc');
  await vm.expectRestored();
});
