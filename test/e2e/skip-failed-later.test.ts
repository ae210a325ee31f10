import type { Warning } from '../../src/core/warning.js';
import { readdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { compareImages } from '../support/lab/compare.js';
import { flush, write } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { startBackup, untilConcluded, untilCopying } from '../support/running-backup.js';
import { type BackupAnswer, scenario, type Scenario, textsOf } from '../support/scenario.js';

/**
 * A disk whose copy fails once the instant has passed: the run fails, or with `--skip-failed-disks` the others are sealed. Of the
 * disk itself nothing is lost either way.
 */
const SIZE = 16 * MiB;
const IDS = ['d1', 'd2', 'd3'];

interface Answer {
  readonly point: {
    readonly number: number;
    readonly chain: string;
    readonly disks: readonly { readonly disk: string; readonly level: string; readonly file: string }[];
    readonly lacks?: readonly { readonly disk: string; readonly kind: string; readonly reason: string }[];
  };
  readonly plan: { readonly disks: readonly { readonly disk: string }[] };
  readonly warnings: readonly Warning[];
}

async function threeDisks(): Promise<Scenario> {
  const lab = await scenario(IDS.map((id) => ({ id, size: SIZE })));
  await fill(lab, 0, 0x11, 4);
  return lab;
}

/** Where the disks that fail have an error, in bytes. */
const BAD = 3 * MiB;

/** In MiB, on every disk, and where the error is. */
async function fill(lab: Scenario, offset: number, pattern: number, length = 1): Promise<void> {
  for (const id of IDS) {
    await write(lab.vm, id, { offset: BAD, length: 65_536, pattern });
    await write(lab.vm, id, { offset: offset * MiB, length: length * MiB, pattern });
    await flush(lab.vm, id);
  }
}

/** Starts the VM again with disks of which a cluster cannot be read: QEMU gets `errno` for it. */
async function withReadErrors(lab: Scenario, ids: readonly string[], errno = 5): Promise<void> {
  const { disks: before } = lab.vm.options;
  await lab.vm.stop();
  const disks = before.map(async (disk) =>
    ids.includes(disk.id)
      ? {
          ...disk,
          file: `blkdebug::${imageOf(lab, disk.id)}`,
          options: {
            'file.inject-error.0.event': 'read_aio',
            'file.inject-error.0.iotype': 'read',
            'file.inject-error.0.sector': String((await placeOf(imageOf(lab, disk.id), BAD)) / 512),
            'file.inject-error.0.errno': String(errno),
          },
        }
      : disk,
  );
  await lab.restart({ disks: await Promise.all(disks) });
}

/** Where in its file an image has what the disk has at `offset`. */
async function placeOf(image: string, offset: number): Promise<number> {
  const { stdout } = await run('qemu-img', ['map', '--output=json', image]);
  const extents = JSON.parse(stdout) as { start: number; length: number; offset: number }[];
  const extent = extents.find(({ start, length }) => start <= offset && offset < start + length);
  return (extent?.offset ?? 0) + offset - (extent?.start ?? 0);
}

async function withoutErrors(lab: Scenario): Promise<void> {
  await lab.vm.stop();
  await lab.restart();
}

function backupArguments(lab: Scenario, level: string, ...more: string[]): string[] {
  return ['--json', '--socket', lab.vm.socket, 'backup', '--level', level, '--target', lab.target, ...more];
}

function imageOf(lab: Scenario, id: string): string {
  return join(lab.dir, `${id}.qcow2`);
}

/** The newest point of these disks, restored, is what they are. */
async function expectNewest(lab: Scenario, ids: readonly string[]): Promise<string> {
  const output = join(lab.dir, `out-${Math.random().toString(36).slice(2)}`);
  const restored = await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
  for (const id of ids) {
    await flush(lab.vm, id);
    await compareImages(join(output, `${id}.qcow2`), imageOf(lab, id));
  }
  return restored.stderr;
}

const catalogOf = (lab: Scenario): Promise<string> => readFile(join(lab.target, 'catalog.json'), 'utf8');

describe('a disk that fails while it is copied', () => {
  it.each([
    { name: 'without fleecing', options: ['--fleece', 'never'] },
    { name: 'with fleecing', options: ['--fleece', 'always'] },
    { name: 'with --verify', options: ['--verify'] },
  ])('$name: fails the run, or is left out of the point, and its next INC is whole', async ({ options }) => {
    const lab = await threeDisks();
    await lab.backup('full');
    await withReadErrors(lab, ['d1']);
    await fill(lab, 4, 0x22);
    const [catalog, bitmaps] = [await catalogOf(lab), await lab.bitmaps()];

    const refused = await expectCli(1, backupArguments(lab, 'inc', ...options));
    expect(refused.stderr).toMatch(/the backup of d1 failed: Input\/output error/);
    expect(refused.stderr).toMatch(/--skip-failed-disks/);
    expect([await catalogOf(lab), await lab.bitmaps()]).toEqual([catalog, bitmaps]);
    await lab.expectNothingLeft(1);

    for (const number of [1, 2]) {
      await fill(lab, 4 + number, 0x30 + number);
      const partial = await expectCli(3, backupArguments(lab, 'inc', '--skip-failed-disks', ...options));
      const reason = 'its copy failed: Input/output error';
      expect(partial.stderr).toContain(`d1 is not in the backup: ${reason}.`);
      const { point, plan, warnings } = partial.json<Answer>();
      expect(point).toMatchObject({ number, lacks: [{ disk: 'd1', kind: 'failed', reason }] });
      expect(point.disks.map(({ disk, level }) => [disk, level])).toEqual([
        ['d2', 'inc'],
        ['d3', 'inc'],
      ]);
      expect(plan.disks.map(({ disk }) => disk)).toEqual(['d2', 'd3']);
      expect(textsOf(warnings).join()).toContain('d1 is not in the backup');
      await lab.expectNothingLeft(2);
      expect(await expectNewest(lab, ['d2', 'd3'])).toMatch(/lacks d1: its copy failed/);
    }
    expect((await expectCli(0, ['list', '--target', lab.target])).stdout).toMatch(/d2 d3, without d1/);

    await withoutErrors(lab);
    await fill(lab, 8, 0x44);
    const whole = await lab.backup('inc', '--skip-failed-disks');
    expect(whole.point.disks.map(({ level }) => level)).toEqual(['inc', 'inc', 'inc']);
    await expectNewest(lab, IDS);
    await lab.expectNothingLeft(2);
  });

  it('before it can be compared: the others are, nothing of its whole copy is left, and the next run compares it', async () => {
    const lab = await threeDisks();
    await lab.backup('full');
    await withReadErrors(lab, ['d1']);
    const { disks } = lab.vm.options;
    await lab.vm.kill();
    await lab.restart({ disks });
    await fill(lab, 4, 0x22);
    const partial = (await expectCli(3, backupArguments(lab, 'auto', '--skip-failed-disks'))).json<BackupAnswer>();
    expect(levelsOf(partial)).toEqual(['d2 inc by comparison', 'd3 inc by comparison']);
    await lab.expectNothingLeft(1);
    const left = await readdir(join(lab.target, 'd1'));
    expect(left.filter((name) => !/^FULL-\d+\.qcow2(\.pieces)?$/.test(name))).toEqual([]);
    await expectNewest(lab, ['d2', 'd3']);
    await withoutErrors(lab);
    await fill(lab, 8, 0x44);
    expect(levelsOf(await lab.backup('auto'))).toEqual(['d1 inc by comparison', 'd2 inc', 'd3 inc']);
    await expectNewest(lab, IDS);
    await lab.expectNothingLeft(1);
  });

  it('when it is compared, alone: the others are sealed, and what it is compared with is named', async () => {
    const lab = await threeDisks();
    const { point } = await lab.backup('full');
    const full = point.disks[0]?.file ?? '';
    await fill(lab, 4, 0x22);
    for (const name of (await lab.bitmaps()).d1 ?? []) {
      await lab.vm.control.execute('block-dirty-bitmap-remove', { node: 'd1', name });
    }
    const running = startBackup(lab, 'auto', '--skip-failed-disks', '--speed-limit', '512K');
    await untilCopying(lab, running, 3);
    await rename(join(lab.target, 'd1', full), join(lab.dir, 'away'));
    await untilConcluded(lab.vm);
    const { exitCode, stdout } = await running.ended;
    expect(exitCode, stdout).toBe(3);
    const partial = JSON.parse(stdout) as BackupAnswer;
    expect(levelsOf(partial)).toEqual(['d2 inc', 'd3 inc']);
    expect(textsOf(partial.warnings).join()).toContain(full);
    await rename(join(lab.dir, 'away'), join(lab.target, 'd1', full));
    await lab.expectNothingLeft(2);
    await expectNewest(lab, ['d2', 'd3']);
    await fill(lab, 8, 0x44);
    expect(levelsOf(await lab.backup('auto'))).toEqual(['d1 inc by comparison', 'd2 inc', 'd3 inc']);
    await expectNewest(lab, IDS);
  });

  it('first of all: the chain begins without it, and it joins with a FULL', async () => {
    const lab = await threeDisks();
    await withReadErrors(lab, ['d1']);
    const { point } = (await expectCli(3, backupArguments(lab, 'auto', '--skip-failed-disks'))).json<Answer>();
    expect(point).toMatchObject({ number: 0, disks: [{ disk: 'd2' }, { disk: 'd3' }] });
    expect(await lab.bitmaps()).toMatchObject({ d2: [expect.any(String)], d3: [expect.any(String)] });
    await lab.expectNothingLeft(1);
    await withoutErrors(lab);
    await fill(lab, 4, 0x22);
    const next = await lab.backup('auto');
    expect(next.point).toMatchObject({ number: 1, chain: point.chain });
    expect(next.point.disks.map(({ level }) => level)).toEqual(['full', 'inc', 'inc']);
    await expectNewest(lab, IDS);
  });

  it('with a full target, or with every other disk: the run fails all the same', async () => {
    const lab = await threeDisks();
    await lab.backup('full');
    await withReadErrors(lab, ['d1'], 28);
    await fill(lab, 4, 0x22);
    const [catalog, bitmaps] = [await catalogOf(lab), await lab.bitmaps()];
    const full = await expectCli(1, backupArguments(lab, 'inc', '--skip-failed-disks'));
    expect(full.stderr).toMatch(/the backup of d1 failed: No space left on device/);
    expect(full.stderr).not.toMatch(/--skip-failed-disks/);
    await lab.expectNothingLeft(1);
    await withoutErrors(lab);
    await withReadErrors(lab, IDS);
    const none = await expectCli(1, backupArguments(lab, 'inc', '--skip-failed-disks'));
    for (const id of IDS) expect(none.stderr).toMatch(new RegExp(`of ${id} failed: Input/output error`));
    expect(await catalogOf(lab)).toBe(catalog);
    expect(
      Object.values(await lab.bitmaps())
        .flat()
        .toSorted(),
    ).toEqual(Object.values(bitmaps).flat().toSorted());
    await lab.expectNothingLeft(1);
  });

  const steps: readonly (CrashPoint & { readonly name: string; readonly sealed?: boolean })[] = [
    { name: 'before its job is dismissed', when: 'before', call: 'send', matches: /"job-dismiss"/ },
    { name: 'after its job is dismissed', when: 'after', call: 'send', matches: /"job-dismiss"/ },
    { name: 'before its bitmap goes', when: 'before', call: 'send', matches: /"block-dirty-bitmap-remove"/ },
    { name: 'after its bitmap went', when: 'after', call: 'send', matches: /"block-dirty-bitmap-remove"/ },
    { name: 'before its file goes', when: 'before', call: 'rm', matches: /INC-\d+\.qcow2\.partial$/ },
    { name: 'after its file went', when: 'after', call: 'rm', matches: /INC-\d+\.qcow2\.partial$/ },
    { name: 'before the catalog', when: 'before', call: 'rename', matches: /catalog\.json$/ },
    { name: 'after the catalog', when: 'after', call: 'rename', matches: /catalog\.json$/, sealed: true },
    { name: 'before the journal goes', when: 'before', call: 'rm', matches: /run\.json$/, sealed: true },
  ];

  it.each(['never', 'always'])('SIGKILL at each step, --fleece %s: no change is lost', async (fleece) => {
    const lab = await threeDisks();
    await lab.backup('full');
    await withReadErrors(lab, ['d1']);
    const options = ['--skip-failed-disks', '--fleece', fleece];
    for (const [index, { name, sealed = false, ...step }] of steps.entries()) {
      try {
        await fill(lab, 4 + index, 0x40 + index);
        const catalog = await catalogOf(lab);
        await crashCli(step, backupArguments(lab, 'inc', ...options));
        expect((await catalogOf(lab)) === catalog).toBe(!sealed);
        // Also one dead run after another.
        if (sealed || index % 2 === 0) await expectCli(3, backupArguments(lab, 'inc', ...options));
      } catch (error) {
        throw new Error(`${name}: ${(error as Error).message}`, { cause: error });
      }
    }
    await withoutErrors(lab);
    const whole = await lab.backup('inc');
    expect(whole.point.disks.map(({ level }) => level)).toEqual(['inc', 'inc', 'inc']);
    await expectNewest(lab, IDS);
    await lab.expectNothingLeft(2);
  });
});
