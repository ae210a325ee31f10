import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { messageOf } from '../../src/errors.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { writeFile as guestWritesFile, write } from '../support/lab/guest-writes.js';
import { mountSmall } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { scenario, type Scenario } from '../support/scenario.js';

/**
 * By QMP a disk without a bitmap is copied whole by QEMU, and the increment is made of that. Whatever step of it the tool is killed at, the next run goes on,
 * and no point is wrong.
 */
const STEPS: readonly (CrashPoint & { readonly name: string; readonly sealed?: true })[] = [
  { name: 'after the journal', when: 'after', call: 'rename', matches: /run\.json$/ },
  { name: 'when an image for a whole copy was made', when: 'after', call: 'open', matches: /FULL-\d+\.qcow2\.partial/ },
  { name: 'before the transaction', when: 'before', call: 'send', matches: /"transaction"/ },
  { name: 'after the transaction', when: 'after', call: 'send', matches: /"transaction"/ },
  { name: 'before the first whole copy is served', when: 'before', call: 'spawn', matches: /qemu-nbd .*FULL-/ },
  { name: 'before the second is', when: 'before', call: 'spawn', matches: /qemu-nbd .*FULL-/, nth: 2 },
  { name: 'before the chain is opened', when: 'before', call: 'spawn', matches: /qemu-storage-daemon/ },
  { name: 'when a chain has been read', when: 'after', call: 'spawn', matches: /qemu-storage-daemon/ },
  { name: 'before a whole copy goes', when: 'before', call: 'rm', matches: /FULL-\d+\.qcow2\.partial$/ },
  { name: 'after one went', when: 'after', call: 'rm', matches: /FULL-\d+\.qcow2\.partial$/ },
  { name: 'after both went', when: 'after', call: 'rm', matches: /FULL-\d+\.qcow2\.partial$/, nth: 2 },
  { name: 'before an image has its name', when: 'before', call: 'rename', matches: /INC-\d+\.qcow2$/ },
  { name: 'after an image has its name', when: 'after', call: 'rename', matches: /INC-\d+\.qcow2$/ },
  { name: 'before the catalog', when: 'before', call: 'rename', matches: /catalog\.json$/ },
  { name: 'after the catalog', when: 'after', call: 'rename', matches: /catalog\.json$/, sealed: true },
  { name: 'before the journal goes', when: 'before', call: 'rm', matches: /run\.json$/, sealed: true },
];

const DISKS = ['d1', 'd2'] as const;
const COMPARED = DISKS.map((disk) => `${disk} inc by comparison`);

async function writeOnBoth({ vm }: Scenario, atMiB: number, pattern: number): Promise<void> {
  for (const disk of DISKS) await write(vm, disk, { offset: atMiB * MiB, length: MiB, pattern });
}

async function removeBitmaps(lab: Scenario): Promise<void> {
  for (const [node, names] of Object.entries(await lab.bitmaps())) {
    for (const name of names) await lab.vm.control.execute('block-dirty-bitmap-remove', { node, name });
  }
}

it(
  'a whole copy that is compared: SIGKILL at each step in turn on one chain',
  async () => {
    const lab = await scenario(DISKS.map((id) => ({ id, size: 48 * MiB })));
    await lab.backup('full');
    for (const [index, { name, sealed, ...step }] of STEPS.entries()) {
      try {
        await removeBitmaps(lab);
        // No step writes where another has: what one of them lost would be missing at the end.
        await writeOnBoth(lab, 2 * index, 0x40 + index);
        await crashCli(step, ['--socket', lab.vm.socket, 'backup', '--target', lab.target]);
        await writeOnBoth(lab, 2 * index + 1, 0x80 + index);
        expect(levelsOf(await lab.backup('auto'))).toEqual(sealed ? ['d1 inc', 'd2 inc'] : COMPARED);
        await lab.expectNothingLeft(1);
        await lab.expectChainEqualsDisks();
      } catch (error) {
        throw new Error(`killed ${name}: ${messageOf(error)}`, { cause: error });
      }
    }
    await expectCli(0, ['verify', '--target', lab.target, '--read-data']);
  },
  patient(400_000),
);

it(
  'a target that has space for the whole copy and not for the increment as well: the run fails, leaves nothing, and the next goes on',
  async () => {
    const lab = await scenario([{ id: 'd1', size: 16 * MiB }]);
    const small = join(lab.dir, 'small');
    const space = await mountSmall(small, 64 * MiB);
    const into = ['--target', join(small, 'target'), '--reserve', '0'];
    const content = join(lab.dir, 'content');
    const rewrite = async (): Promise<void> => {
      await writeFile(content, randomBytes(8 * MiB));
      await guestWritesFile(lab.vm, 'd1', { offset: 0, length: 8 * MiB, file: content });
    };
    await rewrite();
    await lab.backup('full', ...into);
    await removeBitmaps(lab);
    await rewrite();
    await space.fillBut(12 * MiB);
    const backup = ['--socket', lab.vm.socket, 'backup', ...into, '--force'];
    const { stderr } = await expectCli(1, backup);
    expect(stderr).toMatch(/ENOSPC|space/i);
    await lab.expectNothingLeft(0);
    await space.empty();
    expect(levelsOf(await lab.backup('auto', ...into))).toEqual(['d1 inc by comparison']);
    await lab.expectChainEqualsDisks(join(small, 'target'));
  },
  patient(120_000),
);
