import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { startWrite, write } from '../support/lab/guest-writes.js';
import { mountSmall, type SmallTarget } from '../support/mounts.js';
import { expectRefused, leavingNoTrace } from '../support/refusal.js';
import { startBackup, untilCopying } from '../support/running-backup.js';
import { scenario, type Scenario, textsOf } from '../support/scenario.js';

// A target that is too small, or gets full in the middle. The guest never sees an error, nothing of the point stays,
// and the next run with space goes on where the last good one ended.

describe('before a run', () => {
  it('too little space is refused with the numbers, by a dry run too, and changes nothing', async () => {
    const { lab } = await small(64);
    await write(lab.vm, 'd1', { offset: 0, length: 63 * MiB, pattern: 0x11 });
    const words = [/there is too little space on the target .*: the backup can need 63\.\d MiB, 6\d\.\d MiB are free/];
    for (const more of [[], ['--dry-run']]) {
      await leavingNoTrace(lab, () =>
        expectRefused(13, args(lab, 'full', '--reserve', '8M', ...more), ...words, /Free \d.*--reserve.*--force/),
      );
    }
  });

  it('what an increment can need is what its bitmap counts, and a dry run says it', async () => {
    const { lab } = await small(64);
    await write(lab.vm, 'd1', { offset: 0, length: 40 * MiB, pattern: 0x11 });
    await lab.backup('full', '--reserve', '4M');
    await write(lab.vm, 'd1', { offset: 8 * MiB, length: 2 * MiB, pattern: 0x12 });
    const dry = await expectCli(0, ['--json', ...args(lab, 'inc', '--reserve', '4M', '--dry-run')]);
    const { space } = dry.json<{ space: { need: number; free: number; reserve: number } }>();
    expect(space.reserve).toBe(4 * MiB);
    expect(space.need).toBeGreaterThan(2 * MiB);
    expect(space.need).toBeLessThan(3 * MiB);
    expect(space.free).toBeLessThan(24 * MiB);
    expect((await lab.backup('inc', '--reserve', '4M')).point).toMatchObject({ number: 1, level: 'inc' });
    await expectRefused(13, args(lab, 'full', '--reserve', '4M'), 'there is too little space');
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('a whole copy of an overlay needs what its backing file holds', async () => {
    const { lab } = await small(64);
    await write(lab.vm, 'd1', { offset: 0, length: 62 * MiB, pattern: 0x11 });
    const overlay = join(lab.dir, 'overlay.qcow2');
    await lab.vm.control.execute('blockdev-snapshot-sync', { device: 'd1', 'snapshot-file': overlay });
    await expectRefused(13, args(lab, 'full', '--reserve', '8M'), /can need 6\d\.\d MiB/);
  });

  it('--force warns and goes on: with --compress it may fit after all', async () => {
    const { lab } = await small(48);
    await write(lab.vm, 'd1', { offset: 0, length: 60 * MiB, pattern: 0x11 });
    const answer = await lab.backup('full', '--reserve', '8M', '--compress', '--force');
    expect(textsOf(answer.warnings).join()).toMatch(/may be too small: the backup can need 60.*because of --force/);
    await lab.expectChainEqualsDisks();
  });

  it('not even --force begins where the guest would soon run into a full target', async () => {
    const { lab, target } = await small(64);
    await write(lab.vm, 'd1', { offset: 0, length: 40 * MiB, pattern: 0x11 });
    await target.fillBut(12 * MiB);
    await leavingNoTrace(lab, () => expectRefused(13, args(lab, 'full', '--force'), '--force does not help'));
  });
});

describe('while a run is under way', () => {
  it('the jobs are cancelled before a target that somebody else fills is full; the next run is incremental', async () => {
    const { lab, target } = await small(160);
    await write(lab.vm, 'd1', { offset: 0, length: 16 * MiB, pattern: 0x11 });
    await lab.backup('full', '--reserve', '32M');
    const catalog = await readFile(join(lab.target, 'catalog.json'), 'utf8');
    await write(lab.vm, 'd1', { offset: 8 * MiB, length: 16 * MiB, pattern: 0x12 });
    const run = startBackup(lab, 'inc', '--reserve', '32M', '--speed-limit', '1M');
    await untilCopying(lab, run, 1);
    await target.fillBut(31 * MiB);
    // The guest writes where nothing has been copied yet: each write waits for the copy, and none may fail.
    for (let offset = 20 * MiB; run.running() && offset < 24 * MiB; offset += 65536) {
      const { finished } = await startWrite(lab.vm, 'd1', { offset, length: 65536, pattern: 0x13 });
      await finished;
    }
    const ending = await run.ended;
    expect(ending).toMatchObject({ exitCode: 1 });
    expect(ending.stderr).toMatch(/the space on the target \S+ runs out: \d.* are left, 32\.0 MiB have to stay free/);
    expect(ending.stderr).toContain('no change is lost');
    await lab.expectNothingLeft(1);
    expect(await readFile(join(lab.target, 'catalog.json'), 'utf8')).toBe(catalog);

    await target.empty();
    expect((await lab.backup('inc', '--reserve', '32M')).point).toMatchObject({ number: 1, level: 'inc' });
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('a run that --force began ends before the space is used up', async () => {
    const { lab, target } = await small(96);
    await write(lab.vm, 'd1', { offset: 0, length: 60 * MiB, pattern: 0x11 });
    await target.fillBut(40 * MiB);
    const { stderr } = await expectCli(1, args(lab, 'full', '--force', '--speed-limit', '20M'));
    expect(stderr).toMatch(/runs out: \d.* are left, 16\.0 MiB have to stay free/);
    await lab.expectNothingLeft(0);
    await target.empty();
    expect((await lab.backup('auto', '--reserve', '8M')).point).toMatchObject({ number: 0, level: 'full' });
    await lab.expectChainEqualsDisks();
  });
});

function args(lab: Scenario, level: string, ...more: readonly string[]): readonly string[] {
  return ['--socket', lab.vm.socket, 'backup', '--level', level, '--target', lab.target, ...more];
}

async function small(megabytes: number): Promise<{ readonly lab: Scenario; readonly target: SmallTarget }> {
  const lab = await scenario([{ id: 'd1' }]);
  return { lab, target: await mountSmall(lab.target, megabytes * MiB) };
}
