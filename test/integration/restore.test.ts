import { mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { describe as suite, expect, it } from 'vitest';
import { defaultRebaseDeps, rebase } from '../../src/operations/rebase/rebase.js';
import type { RestoreRequest } from '../../src/operations/restore/options.js';
import type { RestoreDeps, RestoreEvent } from '../../src/operations/restore/request.js';
import { defaultRestoreDeps, restore } from '../../src/operations/restore/restore.js';
import { MiB, point } from '../support/builders.js';
import {
  expectSame,
  fakeQemuImg,
  filesIn,
  type Lab,
  makeDisk,
  makeLab,
  photograph,
  record,
  refusal,
  rot,
  type Step,
} from '../support/chains.js';
import { run } from '../support/lab/programs.js';
import { mountSmall } from '../support/mounts.js';

const CHAIN: readonly Step[] = [
  { file: 'FULL-100.qcow2', io: ['write -P 1 0 6M'] },
  { file: 'INC-101.qcow2', on: 'FULL-100.qcow2', io: ['write -P 3 1M 1M', 'write -z 4M 1M'] },
  { file: 'INC-102.qcow2', on: 'INC-101.qcow2', size: 24, io: ['write -P 4 17M 2M'] },
];

/** Two disks; the second one has other data and is missing in the second point. */
async function twoDisks(): Promise<Lab> {
  const lab = await makeLab();
  const a = await makeDisk(lab, 'vda', CHAIN);
  const b = await makeDisk(lab, 'vdb', [
    { file: 'FULL-100.qcow2', io: ['write -P 7 0 1M'] },
    { file: 'INC-102.qcow2', on: 'FULL-100.qcow2', io: ['write -P 8 512k 1M'] },
  ]);
  await record(lab, [
    point(0, [a[0]!, b[0]!]),
    point(1, [a[1]!]),
    point(2, [{ ...a[2]!, source: { ...a[2]!.source, image: null } }, b[1]!], { consistency: 'filesystem' }),
  ]);
  return lab;
}

interface Call {
  readonly point?: string;
  readonly until?: string;
  readonly disks?: readonly string[];
  readonly deps?: Partial<RestoreDeps>;
  readonly events?: RestoreEvent[];
  readonly output?: string;
  readonly rateLimit?: number;
  readonly definition?: Pick<RestoreRequest, 'define' | 'name' | 'connect'>;
}

function bring(lab: Lab, call: Call = {}): ReturnType<typeof restore> {
  const { point: wanted, until, disks, rateLimit } = call;
  return restore(
    {
      target: lab.target,
      output: resolve(lab.root, call.output ?? 'out'),
      point: wanted,
      until,
      disks,
      rateLimit,
      breakLock: false,
      ...call.definition,
    },
    { signal: new AbortController().signal, report: (event) => void call.events?.push(event) },
    { ...defaultRestoreDeps, ...call.deps },
  );
}

function warnings(events: readonly RestoreEvent[]): string {
  return events.map((event) => (event.kind === 'warning' ? event.text : '')).join('\n');
}

suite('restore', () => {
  it('writes all disks of the newest point, and what machine they were of', async () => {
    const lab = await twoDisks();
    const before = await photograph(lab.target);
    const result = await bring(lab);
    const out = join(lab.root, 'out');
    expect(result).toMatchObject({ output: out, point: 'point 2', machine: join(out, 'machine.json') });
    expect(await filesIn(out)).toEqual(['machine.json', 'vda.qcow2', 'vdb.qcow2']);
    expect((await stat(join(out, 'vda.qcow2'))).mode & 0o777).toBe(0o600);
    expect(await photograph(lab.target)).toEqual(before);
    await expectSame(join(out, 'vda.qcow2'), lab.flat('vda', 'INC-102.qcow2'));
    await expectSame(join(out, 'vdb.qcow2'), lab.flat('vdb', 'INC-102.qcow2'));
    expect(JSON.parse(await readFile(join(out, 'machine.json'), 'utf8'))).toMatchObject({
      schema: 1,
      name: 'vm',
      type: 'pc',
      memory: 1,
      cpus: 1,
      consistency: 'filesystem',
      disks: [
        { disk: 'vda', file: 'vda.qcow2', virtualSize: 24 * MiB, source: { device: 'vda', image: {} } },
        { disk: 'vdb', file: 'vdb.qcow2', virtualSize: 16 * MiB },
      ],
    });
  });

  it('defines no domain of what was no domain, with a catalog or without, and says so', async () => {
    const lab = await twoDisks();
    for (const definition of [{ define: true }, { name: 'other' }]) {
      const refused = await refusal(bring(lab, { definition }));
      expect(refused).toMatchObject({ code: 'usage', hint: expect.stringContaining('--domain') as string });
      expect(refused.message).toContain('point 2 has no definition of a domain');
    }
    for (const name of ['catalog.json', 'catalog-copy-1.json']) await rm(join(lab.target, name));
    expect(await refusal(bring(lab, { definition: { define: true } }))).toMatchObject({ code: 'usage' });
    await expect(stat(join(lab.root, 'out'))).rejects.toThrow('ENOENT');
  });

  it('writes an older point by number or by file, and single disks', async () => {
    const lab = await twoDisks();
    await bring(lab, { point: '0', output: 'zero' });
    await expectSame(join(lab.root, 'zero/vdb.qcow2'), lab.flat('vdb', 'FULL-100.qcow2'));
    const events: RestoreEvent[] = [];
    await bring(lab, { until: 'INC-101', output: 'one', events });
    expect(await filesIn(join(lab.root, 'one'))).toEqual(['machine.json', 'vda.qcow2']);
    expect(warnings(events)).toContain('point 1 does not hold vdb');
    await bring(lab, { point: '2', disks: ['vdb'], output: 'two' });
    expect(await filesIn(join(lab.root, 'two'))).toEqual(['machine.json', 'vdb.qcow2']);
  });

  it('refuses what was merged, and restores what is left', async () => {
    const lab = await twoDisks();
    const request = { dir: lab.folder('vda'), dryRun: false, skipCheck: true, breakLock: false };
    const context = { signal: new AbortController().signal, report: () => undefined };
    const commit = (): Promise<never> => Promise.reject(new Error('crash'));
    await expect(rebase(request, context, { ...defaultRebaseDeps, commit })).rejects.toThrow('crash');
    expect(await refusal(bring(lab))).toMatchObject({ code: 'unsafe' });

    await rebase(request, context);
    const refused = await refusal(bring(lab, { point: '0' }));
    expect(refused).toMatchObject({ code: 'unsafe', hint: expect.stringContaining('point 2') as string });
    await bring(lab, { point: '0', disks: ['vdb'], output: 'half' });
    await bring(lab);
    await expectSame(join(lab.root, 'out/vda.qcow2'), lab.flat('vda', 'INC-102.qcow2'));
  });

  it('leaves nothing behind when one disk fails, or an image is there', async () => {
    const lab = await twoDisks();
    await rm(join(lab.folder('vdb'), 'FULL-100.qcow2'));
    const refused = await refusal(bring(lab));
    expect(refused.message).toContain('FULL-100.qcow2');
    expect(await filesIn(lab.root)).not.toContain('out');

    const other = await twoDisks();
    const convert: RestoreDeps['convert'] = async (view, target, options) => {
      await defaultRestoreDeps.convert(view, target, options);
      if (target.includes('vdb')) throw new Error('no space');
    };
    await expect(bring(other, { deps: { convert } })).rejects.toThrow('no space');
    expect(await filesIn(other.root)).not.toContain('out');

    await mkdir(join(other.root, 'out'));
    await writeFile(join(other.root, 'out/vdb.qcow2'), 'precious');
    expect(await refusal(bring(other))).toMatchObject({ code: 'unsafe' });
    expect(await filesIn(join(other.root, 'out'))).toEqual(['vdb.qcow2']);
  });

  it('has the kernel copy within one file system, unless a rate is kept to', async () => {
    const lab = await twoDisks();
    const offloads: unknown[] = [];
    const convert: RestoreDeps['convert'] = (view, target, options) => {
      offloads.push(options.offload);
      return defaultRestoreDeps.convert(view, target, options);
    };
    await bring(lab, { disks: ['vda'], output: 'by-kernel', deps: { convert } });
    await bring(lab, { disks: ['vda'], output: 'by-rate', rateLimit: 2 ** 30, deps: { convert } });
    expect(offloads).toEqual([true, false]);
    for (const output of ['by-kernel', 'by-rate']) {
      await expectSame(join(lab.root, output, 'vda.qcow2'), lab.flat('vda', 'INC-102.qcow2'));
    }
  });

  it('proves the bytes of every file, though size and time are as recorded', async () => {
    const lab = await twoDisks();
    await rot(join(lab.folder('vda'), 'FULL-100.qcow2'));
    const refused = await refusal(bring(lab));
    expect(refused).toMatchObject({
      code: 'damaged',
      message: expect.stringMatching(/^FULL-100\.qcow2 is damaged/) as string,
    });
    expect(await filesIn(lab.root)).not.toContain('out');
    expect(await bring(lab, { disks: ['vdb'] })).toMatchObject({ disks: [{ disk: 'vdb' }] });
  });

  it('refuses to write into a target, or into what belongs to one', async () => {
    const lab = await twoDisks();
    for (const output of [lab.target, lab.folder('vda'), join(lab.target, 'definition')]) {
      expect(await refusal(bring(lab, { output }))).toMatchObject({
        code: 'unsafe',
        message: expect.stringMatching(/is the target of backups|belongs to the backup in/) as string,
      });
    }
  });

  it('says before it begins that it may not fit, and leaves nothing where it does not', async () => {
    const lab = await twoDisks();
    const output = join(lab.root, 'small');
    await mountSmall(output, 4 * MiB);
    const events: RestoreEvent[] = [];
    expect((await refusal(bring(lab, { output, events }))).message).toMatch(/No space left on device/);
    expect(warnings(events)).toMatch(/small has 4.0 MiB free, and the restore of point 2 may take up to \d+\.\d MiB/);
    expect(await filesIn(output)).toEqual([]);
  });

  it('refuses a folder that cannot be made, at once', async () => {
    const lab = await twoDisks();
    const refused = await refusal(bring(lab, { output: '/proc/nowhere/out' }));
    expect(refused).toMatchObject({ code: 'unsafe', message: expect.stringContaining('/proc/nowhere') as string });
  });

  it('refuses a point, file or disk that is not there, and a target without a backup', async () => {
    const lab = await twoDisks();
    for (const call of [{ point: '9' }, { until: 'INC-9' }, { disks: ['sda'] }, { point: '1', until: 'INC-101' }]) {
      expect(await refusal(bring(lab, call))).toMatchObject({ code: 'usage' });
    }
    expect(await refusal(bring(await emptyLab()))).toMatchObject({ code: 'no-catalog' });
    expect(await refusal(bring(await makeLab()))).toMatchObject({ code: 'no-catalog' });
  });

  async function emptyLab(): Promise<Lab> {
    const lab = await makeLab();
    await mkdir(lab.target);
    return lab;
  }

  it('does not follow a disk folder that is a link, nor any link in an image', async () => {
    const lab = await twoDisks();
    await rename(lab.folder('vdb'), join(lab.root, 'elsewhere'));
    await symlink(join(lab.root, 'elsewhere'), lab.folder('vdb'));
    const fake = await fakeQemuImg(lab);
    try {
      expect(await refusal(bring(lab))).toMatchObject({ code: 'unsafe' });
      expect(await fake.calls()).toBe('');
    } finally {
      fake.restore();
    }
  });
});

suite('restore from a target of the Python tool', () => {
  async function pythonLab(): Promise<Lab> {
    const lab = await makeLab();
    for (const disk of ['ide0-hd0', 'vd1']) {
      const name = (file: string): string => file.replace('.qcow2', `-${disk}.qcow2`);
      const steps = CHAIN.map(({ file, on, ...rest }) => ({
        ...rest,
        file: name(file),
        ...(on === undefined ? {} : { on: name(on) }),
      }));
      await makeDisk(lab, disk, disk === 'vd1' ? steps.slice(0, 2) : steps);
      for (const { file } of steps.slice(1, disk === 'vd1' ? 2 : 3)) {
        await run('qemu-img', ['rebase', '-u', '-b', '', join(lab.folder(disk), file)]);
      }
    }
    await writeFile(join(lab.target, 'uuid'), 'abc');
    return lab;
  }

  it('writes the newest state of each disk', async () => {
    const lab = await pythonLab();
    const before = await photograph(lab.target);
    await bring(lab);
    expect(await filesIn(join(lab.root, 'out'))).toEqual(['ide0-hd0.qcow2', 'machine.json', 'vd1.qcow2']);
    await expectSame(join(lab.root, 'out/ide0-hd0.qcow2'), lab.flat('ide0-hd0', 'INC-102-ide0-hd0.qcow2'));
    await expectSame(join(lab.root, 'out/vd1.qcow2'), lab.flat('vd1', 'INC-101-vd1.qcow2'));
    expect(await photograph(lab.target)).toEqual(before);
  });

  it('writes the state of one run of theirs, by file or by number', async () => {
    const lab = await pythonLab();
    await bring(lab, { until: 'INC-101-vd1.qcow2', output: 'a' });
    await expectSame(join(lab.root, 'a/ide0-hd0.qcow2'), lab.flat('ide0-hd0', 'INC-101-ide0-hd0.qcow2'));
    await bring(lab, { point: '0', output: 'b' });
    await expectSame(join(lab.root, 'b/vd1.qcow2'), lab.flat('vd1', 'FULL-100-vd1.qcow2'));
    const events: RestoreEvent[] = [];
    await bring(lab, { point: '2', output: 'c', events });
    expect(warnings(events)).toContain('vd1 was not backed up at 102: its state of 101 is restored');
  });
});
