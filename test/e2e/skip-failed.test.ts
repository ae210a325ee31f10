import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage } from '../support/lab/disk-images.js';
import { flush, write } from '../support/lab/guest-writes.js';
import { scenario, type Scenario } from '../support/scenario.js';

/** A disk that cannot be copied fails the run, or is left out where that is asked for; the others go on, and then it does. */
const SIZE = 16 * MiB;

interface Answer {
  readonly point: {
    readonly number: number;
    readonly disks: readonly { readonly disk: string; readonly level: string }[];
    readonly lacks?: readonly { readonly disk: string; readonly kind: string }[];
  };
}

async function hold(lab: Scenario, device: string): Promise<() => Promise<void>> {
  const { control } = lab.vm;
  const file = join(lab.dir, `${device}-copy.qcow2`);
  await createImage({ file, format: 'qcow2', size: SIZE });
  const node = { driver: 'qcow2', 'node-name': `${device}-copy`, file: { driver: 'file', filename: file } };
  await control.execute('blockdev-add', node);
  const job = `hold-${device}`;
  await control.execute('blockdev-mirror', {
    ...{ 'job-id': job, device, target: `${device}-copy`, sync: 'full', 'auto-dismiss': false, speed: 65_536 },
  });
  return async () => {
    await control.execute('job-cancel', { id: job });
    for (;;) {
      const jobs = (await control.execute('query-jobs')) as { id: string; status: string }[];
      if (jobs.find(({ id }) => id === job)?.status === 'concluded') break;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    await control.execute('job-dismiss', { id: job });
    await control.execute('blockdev-del', { 'node-name': `${device}-copy` });
    await rm(file);
  };
}

describe('a disk that has a mirror', () => {
  it('is left out with --skip-failed-disks; the chains of the others go on, and then its own', async () => {
    const lab = await scenario(['d1', 'd2', 'd3'].map((id) => ({ id, via: 'blockdev', size: SIZE })));
    const fill = async (pattern: number): Promise<void> => {
      for (const id of ['d1', 'd2', 'd3']) {
        await write(lab.vm, id, { offset: 0, length: 4 * MiB, pattern });
        await flush(lab.vm, id);
      }
    };
    const args = ['--json', '--socket', lab.vm.socket, 'backup', '--level', 'auto', '--target', lab.target];
    await fill(0x11);
    await lab.backup('full');

    const releases = [await hold(lab, 'd1'), await hold(lab, 'd3')];
    await fill(0x22);
    const refused = await expectCli(13, args);
    expect(refused.stderr).toMatch(/2 disks cannot be copied: d1: .*; d3: /);
    expect(Object.values(await lab.bitmaps()).flat()).toHaveLength(3);

    for (const number of [1, 2]) {
      await fill(0x30 + number);
      const partial = await expectCli(3, [...args, '--skip-failed-disks']);
      expect(partial.stderr).toMatch(/warning: d1 is not in the backup: .*mirror, id hold-d1/);
      const { point } = partial.json<Answer>();
      expect(point).toMatchObject({ number, disks: [{ disk: 'd2', level: 'inc' }] });
      expect(point.lacks).toMatchObject([
        { disk: 'd1', kind: 'failed' },
        { disk: 'd3', kind: 'failed' },
      ]);
      const output = join(lab.dir, `out-${number}`);
      const restored = await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
      expect(restored.stderr).toMatch(/warning: .*d1.*\n(.*\n)*warning: .*d3/);
      await compareImages(join(output, 'd2.qcow2'), lab.vm.disk('d2').file ?? '');
    }
    const listed = await expectCli(0, ['list', '--target', lab.target]);
    expect(listed.stdout).toMatch(/d2, without d1 d3/);

    for (const release of releases) await release();
    await fill(0x44);
    const whole = (await expectCli(0, [...args, '--skip-failed-disks'])).json<Answer>();
    expect(whole.point.lacks).toBeUndefined();
    expect(whole.point.disks.map(({ level }) => level)).toEqual(['inc', 'inc', 'inc']);
    await lab.expectChainEqualsDisks();
  });

  it('is refused also with the option where no other disk is left', async () => {
    const lab = await scenario([{ id: 'd1', via: 'blockdev', size: SIZE }]);
    await hold(lab, 'd1');
    const args = ['--socket', lab.vm.socket, 'backup', '--level', 'auto', '--target', lab.target];
    expect((await expectCli(13, [...args, '--skip-failed-disks'])).stderr).toMatch(/a disk cannot be copied: d1/);
    expect(Object.values(await lab.bitmaps()).flat()).toEqual([]);
  });
});
