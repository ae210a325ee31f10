import { readdir } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { expectPattern, flush } from '../support/lab/guest-writes.js';
import { shareOf } from '../support/moments.js';
import { mountSmall } from '../support/mounts.js';
import { overlaidDomain, OVERLAID } from '../support/overlaid-domain.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** What becomes of backups by overlay when something dies, ends or gets full: no write of the guest is lost. */
const MiB = 1024 * 1024;
const lab = useLibvirt();

type Step = CrashPoint & { readonly name: string; readonly sealed?: boolean };

const STEPS: readonly Step[] = [
  { name: 'after the journal', when: 'after', call: 'rename', matches: /run\.json$/ },
  { name: 'before the snapshot', when: 'before', call: 'spawn', matches: /snapshot-create/ },
  { name: 'after the snapshot', when: 'after', call: 'spawn', matches: /snapshot-create/ },
  { name: 'while it is copied', when: 'after', call: 'spawn', matches: /^setpriv .*qemu-nbd/ },
  { name: 'before an image has its name', when: 'before', call: 'rename', matches: /(FULL|INC|COPY)-\d+\.qcow2$/ },
  { name: 'before the catalog', when: 'before', call: 'rename', matches: /catalog\.json$/ },
  { name: 'after the catalog', when: 'after', call: 'rename', matches: /catalog\.json$/, sealed: true },
  { name: 'after the journal went', when: 'after', call: 'rm', matches: /run\.json$/, sealed: true },
];

/** Of a run that tracks these come after the seal. */
const MERGING: readonly Step[] = [
  { name: 'before a commit', when: 'before', call: 'spawn', matches: /blockcommit/ },
  { name: 'after a commit began', when: 'after', call: 'spawn', matches: /blockcommit/ },
  { name: 'before an overlay is deleted', when: 'before', call: 'rm', matches: /\.overlay$/ },
  { name: 'after an overlay was deleted', when: 'after', call: 'rm', matches: /\.overlay$/ },
];

const PIVOTS: readonly Step[] = [
  { name: 'before a pivot', when: 'before', call: 'spawn', matches: /--pivot/ },
  { name: 'after a pivot', when: 'after', call: 'spawn', matches: /--pivot/ },
  { name: 'after the second pivot', when: 'after', call: 'spawn', matches: /--pivot/, nth: 2 },
];

describe('SIGKILL at a step', () => {
  it('of a copy: the guest is on its own images again, and nothing is lost', async () => {
    const vm = await overlaidDomain(lab);
    const args = [...vm.vm, 'backup', '--level', 'copy', '--method', 'overlay', '--overlay-dir', vm.overlays];
    for (const [index, { name, ...step }] of shareOf([...STEPS, ...MERGING, ...PIVOTS], 0, 2).entries()) {
      try {
        await vm.writeAll(index, 0x10 + index);
        await crashCli(step, [...args, '--target', vm.target]);
        // Half of them are repaired by recover, half by the next run.
        await vm.writeAll(31, 0x10 + index);
        if (index % 2 === 0) {
          await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
          await vm.expectLayers(0);
        }
        const { point } = await vm.overlay('copy');
        await vm.expectLayers(0);
        await vm.expectRestored(point.id);
        for (const disk of OVERLAID) {
          await expectPattern(vm.domain, disk, { offset: index * MiB, length: MiB, pattern: 0x10 + index });
          await expectPattern(vm.domain, disk, { offset: 31 * MiB, length: MiB, pattern: 0x10 + index });
        }
      } catch (error) {
        throw new Error(`killed ${name}: ${(error as Error).message}`, { cause: error });
      }
    }
  });

  it('of an increment: the chain goes on incrementally and the source chain is base and overlay', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(0, 0x0f);
    await vm.track('auto');
    const args = [...vm.vm, 'backup', '--level', 'inc', '--method', 'overlay', '--track', 'overlay'];
    const merging = MERGING.map((step) => ({ ...step, sealed: true }));
    let number = 1;
    for (const [index, { name, sealed = false, ...step }] of shareOf([...STEPS, ...merging], 1, 2).entries()) {
      try {
        await vm.writeAll(index, 0x40 + index);
        await crashCli(step, [...args, '--overlay-dir', vm.overlays, '--target', vm.target]);
        await vm.writeAll(31, 0x40 + index);
        if (sealed) number += 1;
        if (index % 2 === 0) {
          await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
          await vm.expectLayers(1);
        }
        const { point } = await vm.track('inc');
        expect(point).toMatchObject({ number, level: 'inc' });
        number += 1;
        await vm.expectLayers(1);
        await vm.expectRestored();
      } catch (error) {
        throw new Error(`killed ${name}: ${(error as Error).message}`, { cause: error });
      }
    }
  });
});

describe('consolidate-source that is killed', () => {
  for (const [test, by] of (['consolidate-source', 'recover', 'a run'] as const).entries()) {
    it(`is finished by ${by}: the guest is on its images, no write is lost, nothing is left`, async () => {
      const vm = await overlaidDomain(lab);
      await vm.writeAll(0, 0x0f);
      for (const [index, { name, ...step }] of shareOf([...MERGING, ...PIVOTS], test, 3).entries()) {
        try {
          await vm.track('auto');
          await vm.writeAll(index, 0x90 + index);
          await crashCli(step, [...vm.vm, 'consolidate-source']);
          await vm.writeAll(31, 0x90 + index);
          if (by === 'recover') {
            // What tracks stays; what was being merged is merged, and its file goes.
            await expectCli(0, [...vm.vm, 'recover', '--target', vm.target]);
            const there = await readdir(vm.overlays);
            const chains = await Promise.all(OVERLAID.map((disk) => vm.chainOf(disk)));
            expect(there.length).toBe(chains.flat().length - OVERLAID.length);
          }
          if (by === 'a run') {
            await vm.track('auto');
            await vm.expectLayers(1);
            await vm.expectRestored();
          }
          await expectCli(0, [...vm.vm, 'consolidate-source']);
          await vm.expectLayers(0);
          expect((await lab.virsh(['dumpxml', vm.domain.uuid])).stdout).not.toContain('qmpbackup');
          for (const disk of OVERLAID) {
            await expectPattern(vm.domain, disk, { offset: index * MiB, length: MiB, pattern: 0x90 + index });
            await expectPattern(vm.domain, disk, { offset: 31 * MiB, length: MiB, pattern: 0x90 + index });
          }
        } catch (error) {
          throw new Error(`killed ${name}: ${(error as Error).message}`, { cause: error });
        }
      }
    });
  }
});

describe('while a run by overlay is under way', () => {
  it('libvirtd is killed and started again: the run ends with its point or none, and the domain is as it was', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x51);
    await vm.writeAll(2, 0x52);
    const running = await vm.slowly('--level', 'full');
    await vm.writeAll(3, 0x53);
    await lab.stopDaemon('kill');
    await lab.startDaemon();
    await running.ended;
    await vm.writeAll(4, 0x54);
    const { point } = await vm.overlay('copy');
    await vm.expectLayers(0);
    await vm.expectRestored(point.id);
    for (const disk of OVERLAID) {
      await expectPattern(vm.domain, disk, { offset: 3 * MiB, length: MiB, pattern: 0x53 });
    }
  });

  it('QEMU is killed: what was flushed is there after its start, and the next run goes on', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x61);
    await vm.track('auto');
    await vm.writeAll(2, 0x62);
    await vm.writeAll(6, 0x66);
    const running = await vm.slowly('--level', 'inc', '--track', 'overlay');
    await vm.writeAll(3, 0x63);
    for (const disk of OVERLAID) await flush(vm.domain, disk);
    await vm.domain.kill();
    const { exitCode } = await running.ended;
    // What was copied stood still, so the point is right.
    expect(exitCode).toBe(0);
    await vm.domain.start();
    for (const disk of OVERLAID) {
      await expectPattern(vm.domain, disk, { offset: 2 * MiB, length: MiB, pattern: 0x62 });
      await expectPattern(vm.domain, disk, { offset: 3 * MiB, length: MiB, pattern: 0x63 });
    }
    await vm.writeAll(4, 0x64);
    expect((await vm.track('inc')).point).toMatchObject({ level: 'inc', number: 2 });
    await vm.expectLayers(1);
    await vm.expectRestored();
  });

  it('the run is told to end: the guest is where it was', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x71);
    await vm.writeAll(5, 0x75);
    const running = await vm.slowly('--level', 'full', '--track', 'overlay');
    await vm.writeAll(2, 0x72);
    running.kill('SIGTERM');
    expect((await running.ended).exitCode).toBe(143);
    await vm.expectLayers(0);
    for (const disk of OVERLAID) {
      await expectPattern(vm.domain, disk, { offset: 2 * MiB, length: MiB, pattern: 0x72 });
    }
    expect((await vm.track('auto')).point.level).toBe('full');
    await vm.expectRestored();
  });

  it('somebody merges the overlay: no point is made of images that move', async () => {
    const vm = await overlaidDomain(lab);
    await vm.writeAll(1, 0x79);
    const running = await vm.slowly('--level', 'full');
    await vm.writeAll(2, 0x7a);
    // QEMU refuses it, since whoever reads the image below has its lock.
    const { stderr } = await lab.virsh(
      ['blockcommit', vm.domain.uuid, 'vdb', '--active', '--shallow', '--pivot', '--wait'],
      { allowed: [1] },
    );
    expect(stderr).toMatch(/Failed to get .*lock/);
    expect((await running.ended).exitCode).toBe(0);
    await vm.expectLayers(0);
  });

  it('the target gets full: no point, nothing left, and the next run is incremental', async () => {
    const vm = await overlaidDomain(lab);
    const small = await mountSmall(vm.target, 64 * MiB);
    const blindly = ['--reserve', '0', '--force', '--no-digest'];
    await vm.writeAll(1, 0x81);
    await vm.track('auto', ...blindly);
    for (let at = 2; at < 10; at += 1) await vm.writeAll(at, 0x80 + at);
    await small.fillBut(10 * MiB);
    const args = [...vm.vm, 'backup', '--level', 'inc', '--target', vm.target, '--method', 'overlay'];
    const { stderr } = await expectCli(1, [...args, '--track', 'overlay', '--overlay-dir', vm.overlays, ...blindly]);
    expect(stderr).toMatch(/No space left on device|ENOSPC|the space on the target .* runs out/);
    expect(await vm.domain.state()).toBe('running');
    await small.empty();
    await vm.expectLayers(1);
    await vm.writeAll(11, 0x8b);
    expect((await vm.track('inc', ...blindly)).point).toMatchObject({ level: 'inc', number: 1 });
    await vm.expectLayers(1);
    await vm.expectRestored();
  });
});
