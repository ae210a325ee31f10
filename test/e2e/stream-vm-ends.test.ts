import { execa } from 'execa';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { TEMPORARY } from '../../src/repository/scratch-place.js';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { expectCli, PROGRAM, startCli } from '../support/cli.js';
import { write } from '../support/lab/guest-writes.js';
import { patient } from '../support/patience.js';
import { openRelay } from '../support/qmp-relay.js';
import { afterTest, scenario, type Scenario } from '../support/scenario.js';

/** A stream has its journal in a folder that goes with it: what it cannot undo is not to be lost with it. */
beforeAll(ensureBuilt, patient(180_000));

async function filled(): Promise<Scenario> {
  const lab = await scenario(undefined, { uuid: '6b1a2c3d-0000-4000-8000-00000000b015' });
  for (const disk of ['d1', 'd2']) await write(lab.vm, disk, { offset: 0, length: 8 * MiB, pattern: 1 });
  return lab;
}

function stream(socket: string) {
  const args = [PROGRAM, '--socket', socket, 'backup', '--level', 'copy', '--output', '-'];
  const run = execa(process.execPath, args, { reject: false, buffer: { stdout: false } });
  afterTest(async () => {
    run.kill('SIGKILL');
    await run;
  });
  return run;
}

/** What a run may have made: beside the disks, and for its own. */
async function remains(lab: Scenario, pid: number | undefined): Promise<readonly string[]> {
  const beside = (await readdir(lab.dir)).filter((name) => /scratch|partial|raw/.test(name));
  return [...beside, ...(await readdir(TEMPORARY)).filter((name) => name.startsWith(`qmpbackup-stream-${pid}-`))];
}

describe('QEMU is killed', () => {
  it(
    'while a stream is read: it says so and nothing is left',
    async () => {
      const lab = await filled();
      const run = stream(lab.vm.socket);
      await once(run.stdout, 'readable');
      expect((await remains(lab, run.pid)).length).toBeGreaterThan(1);
      await lab.vm.kill();
      // Also where whoever reads the stream takes nothing.
      const { exitCode, stderr } = await run;
      expect(exitCode).toBe(1);
      expect(stderr).toContain("the VM's monitor was lost during the backup");
      expect(stderr).not.toContain('warning');
      expect(await remains(lab, run.pid)).toEqual([]);
      await lab.restart();
      await lab.backup('full');
      await lab.expectNothingLeft(1);
    },
    patient(120_000),
  );

  it(
    'while raw images are written: it says so and nothing is left',
    async () => {
      const lab = await filled();
      const folder = join(lab.dir, 'raw');
      const copy = ['--level', 'copy', '--format', 'raw', '--output', folder, '--speed-limit', '1M'];
      const run = startCli(['--socket', lab.vm.socket, 'backup', ...copy]);
      await expect
        .poll(() => readdir(`${folder}.partial`).catch(() => []), { timeout: patient(60_000) })
        .toContain('d1.raw');
      await lab.vm.kill();
      const { exitCode, stderr } = await run;
      expect(exitCode).toBe(1);
      expect(stderr).toContain("the VM's monitor was lost during the backup");
      expect(await remains(lab, run.pid)).toEqual([]);
    },
    patient(120_000),
  );

  it(
    'while a point is made: its files go at once, and its bitmaps stay in the journal',
    async () => {
      const lab = await filled();
      const backup = [
        'backup',
        '--level',
        'full',
        '--target',
        lab.target,
        '--speed-limit',
        '64K',
        '--fleece',
        'always',
      ];
      const run = startCli(['--socket', lab.vm.socket, ...backup]);
      await expect.poll(() => remains(lab, undefined), { timeout: patient(60_000) }).toHaveLength(1);
      await once(run.stderr, 'data');
      await lab.vm.kill();
      const { exitCode, stderr } = await run;
      expect(exitCode).toBe(1);
      expect(stderr).toContain("the VM's monitor was lost during the backup");
      expect(await remains(lab, run.pid)).toEqual([]);
      expect(await readdir(lab.target)).toEqual(['run.json']);
      await lab.restart();
      await lab.backup('auto');
      await lab.expectChainEqualsDisks();
      await lab.expectNothingLeft(1);
    },
    patient(120_000),
  );
});

it(
  'the monitor breaks off while QEMU lives: the next run finds what the stream could not undo',
  async () => {
    const lab = await filled();
    const relay = await openRelay(join(lab.dir, 'relay.sock'), lab.vm.socket, ({ text }, pass) => pass(text));
    afterTest(() => relay.close());
    const run = stream(relay.socket);
    await once(run.stdout, 'readable');
    relay.cut();
    run.stdout.resume();
    const { exitCode, stderr } = await run;
    expect(exitCode).toBe(1);
    expect(stderr).toContain("the VM's monitor was lost during the backup");
    expect(stderr).toContain('the next run does it by the journal');
    expect((await remains(lab, run.pid)).length).toBe(2);
    const { stdout } = await expectCli(0, ['--socket', lab.vm.socket, 'doctor']);
    expect(stdout).toContain('has left something in');
    await lab.backup('full');
    expect(await remains(lab, run.pid)).toEqual([]);
    await lab.expectNothingLeft(1);
  },
  patient(120_000),
);
