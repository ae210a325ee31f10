import fc from 'fast-check';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { requireCatalog } from '../../src/repository/catalog-file.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { sumOf } from '../support/guest-disk.js';
import { checkFs, fileChecksums } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { makeLabDir, run } from '../support/lab/programs.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { IS_LONG } from '../support/moments.js';
import { patient } from '../support/patience.js';
import type { BackupAnswer } from '../support/scenario.js';

/**
 * A chain of a real guest that writes, deletes and trims, with a disk that grows, one that comes and one that goes; and
 * then points are merged away at random. What is kept is what it was, bit for bit, and the guest's next backup is an increment.
 */
const [INCREMENTS, MERGES] = IS_LONG ? [30, 20] : [8, 5];
const SEED = Number(process.env.QMPBACKUP_TEST_SEED ?? 1);
const PLACES = ['d1', 'd2', 'd3'] as const;
type Place = (typeof PLACES)[number];

let dir = '';
let vm: GuestVm | undefined;
afterAll(async () => {
  await vm?.kill();
  await rm(dir, { recursive: true, force: true });
});

const fileOf = (disk: Place): string => join(dir, `${disk}.qcow2`);
const target = (): string => join(dir, 'target');

/** Ends the guest as its power button does, and starts it with these disks. */
async function startWith(disks: readonly Place[]): Promise<GuestVm> {
  await vm?.powerdown();
  const made = disks.map((id) => ({ id, file: fileOf(id) }));
  return startQemu({ dir: join(dir, 'vm'), name: 'pruned', disks: made, guest: true });
}

/** In each file system something new, something deleted and something overwritten; in one of three rounds all that is free is trimmed. */
async function change(guest: GuestVm['guest'], disks: readonly Place[], round: number): Promise<void> {
  for (const disk of disks) {
    const steps = [
      `cd /mnt/${disk}`,
      `dd if=/dev/urandom of=new-${round} bs=1k count=$((RANDOM % 900 + 100))`,
      `dd if=/dev/urandom of=same bs=64k seek=$((RANDOM % 20)) count=1 conv=notrunc`,
      `rm -f new-${round - 3}`,
      ...(round % 3 === 2 ? ['sync', `fstrim /mnt/${disk}`] : []),
    ];
    await guest.run(`{ ${steps.join(' && ')}; } 2>/dev/null`);
  }
}

/** Where d1 has grown no file system is. */
async function writeBehindFileSystem(guest: GuestVm['guest']): Promise<void> {
  const device = '$(grep /mnt/d1 /proc/mounts | cut -d" " -f1)';
  await guest.run(`dd if=/dev/urandom of=${device} bs=64k seek=1100 count=4 2>/dev/null`);
}

/** What the disks of a point hold, as SHA-256 of each. */
async function stateOf(point: string, disks: readonly string[]): Promise<Readonly<Record<string, string>>> {
  const output = join(dir, 'restored');
  await expectCli(0, ['restore', '--target', target(), '--point', point, '--output', output, '--format', 'raw']);
  const sums = await Promise.all(disks.map(async (disk) => [disk, await sumOf(join(output, `${disk}.raw`))] as const));
  await rm(output, { recursive: true });
  return Object.fromEntries(sums);
}

const disksOf = ({ disks }: { readonly disks: readonly { readonly disk: string }[] }): readonly string[] =>
  disks.map(({ disk }) => disk);

it(
  'keeps every point that it keeps bit for bit, whatever is pruned and merged, and goes on with increments',
  { timeout: patient(INCREMENTS * 40_000) },
  async () => {
    dir = await makeLabDir();
    for (const id of PLACES)
      await makeExt4({ file: fileOf(id), label: `DATA${id.slice(1)}`, format: 'qcow2', size: 64 * MiB });
    const states = new Map<string, Readonly<Record<string, string>>>();
    let round = 0;
    const backUp = async (disks: readonly Place[], levels: readonly string[]): Promise<void> => {
      round += 1;
      await change(vm!.guest, disks, round);
      const agent = ['--agent-socket', vm!.agentSocket];
      const args = ['--json', '--socket', vm!.socket, ...agent, 'backup', '--target', target(), '--quiesce=require'];
      const { point } = (await expectCli(0, args)).json<BackupAnswer>();
      expect(point.disks.map(({ level }) => level)).toEqual(levels);
      const { id } = (await requireCatalog(target())).points.at(-1)!;
      states.set(id, await stateOf('latest', disksOf(point)));
    };
    const third = Math.floor(INCREMENTS / 3);

    vm = await startWith(['d1', 'd2']);
    await backUp(['d1', 'd2'], ['full', 'full']);
    for (let inc = 0; inc < third; inc += 1) await backUp(['d1', 'd2'], ['inc', 'inc']);
    await vm.powerdown();
    await run('qemu-img', ['resize', '-q', fileOf('d1'), '72M']);
    vm = await startQemu({ ...vm.options, disks: PLACES.map((id) => ({ id, file: fileOf(id) })), guest: true });
    await writeBehindFileSystem(vm.guest);
    await backUp(PLACES, ['inc', 'inc', 'full']);
    for (let inc = 1; inc < third; inc += 1) await backUp(PLACES, ['inc', 'inc', 'inc']);
    vm = await startWith(['d1', 'd3']);
    while (round <= INCREMENTS) await backUp(['d1', 'd3'], ['inc', 'inc']);

    const merges = fc.sample(
      fc.record({
        verb: fc.constantFrom('until', 'keep', 'prune'),
        at: fc.double({ min: 0, max: 0.99, noNaN: true }),
        pins: fc.infiniteStream(fc.boolean()),
      }),
      { numRuns: MERGES, seed: SEED },
    );
    for (const { verb, at, pins } of merges) {
      const { points } = await requireCatalog(target());
      const ids = points.map(({ id }) => id);
      // A few at a time, so that there is something left for the next.
      const few = 1 + Math.floor(at * 3);
      if (verb === 'prune') {
        const pinned = ids.slice(0, -1).filter(() => pins.next().value === true || pins.next().value === true);
        for (const id of pinned) await expectCli(0, ['pin', id, '--target', target()]);
        await expectCli(0, ['prune', '--target', target(), '--keep-last', '1', '--consolidate']);
        const left = new Set((await requireCatalog(target())).points.map(({ id }) => id));
        for (const id of [...pinned, ids.at(-1)!]) expect(left).toContain(id);
        for (const id of pinned) await expectCli(0, ['unpin', id, '--target', target()]);
      } else {
        const index = Math.min(few, ids.length - 1);
        const to = verb === 'until' ? ['--until', ids[index]!] : ['--keep', `${ids.length - index}`];
        await expectCli(0, ['consolidate', '--target', target(), ...to, '--allow-remove-all']);
        expect((await requireCatalog(target())).points.map(({ id }) => id)).toEqual(ids.slice(index));
      }
      for (const point of (await requireCatalog(target())).points) {
        expect(await stateOf(point.id, disksOf(point)), `${verb}: ${point.id}`).toEqual(states.get(point.id));
      }
      await expectCli(0, ['verify', '--target', target(), '--read-data']);
      await backUp(['d1', 'd3'], ['inc', 'inc']);
    }

    const had = [await vm.guest.fileChecksums('/mnt/d1'), await vm.guest.fileChecksums('/mnt/d3')];
    const output = join(dir, 'last');
    await expectCli(0, ['restore', '--target', target(), '--output', output]);
    const restored = ['d1', 'd3'].map((id) => join(output, `${id}.qcow2`));
    for (const image of restored) await checkFs(image);
    expect(await Promise.all(restored.map(fileChecksums))).toEqual(had);
  },
);
