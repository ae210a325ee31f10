import { chmod, chown, mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectSame, type Lab, makeDisk, makeLab, pointsOf, record } from '../support/chains.js';
import { expectCli } from '../support/cli.js';
import { run } from '../support/lab/programs.js';
import { mountSmall } from '../support/mounts.js';
import { asNobody, runAsNobody } from '../support/nobody.js';
import { expectRefused, leavingNoTrace } from '../support/refusal.js';
import { scenario } from '../support/scenario.js';
import { patient } from '../support/patience.js';

// A target of root that another user may read and not write to, or not read, and one that nobody can write to.

const [FULL, INC] = ['FULL-100.qcow2', 'INC-101.qcow2'] as const;

interface Reader {
  readonly lab: Lab;
  readonly target: string;
  /** The reader's own. */
  readonly home: string;
  readonly nobody: ReturnType<typeof asNobody>;
}

async function backedUp(): Promise<Reader> {
  const lab = await makeLab();
  const entries = await makeDisk(lab, 'vda', [
    { file: FULL, io: ['write -P 1 0 2M'] },
    { file: INC, on: FULL, io: ['write -P 2 1M 1M'] },
  ]);
  await record(lab, pointsOf(entries));
  await expectCli(0, ['verify', '--target', lab.target, '--read-data']);
  const home = join(lab.root, 'home');
  await mkdir(home, { mode: 0o700 });
  await chown(home, 65534, 65534);
  await chmod(lab.root, 0o755);
  return { lab, target: lab.target, home, nobody: asNobody({ TMPDIR: home, XDG_RUNTIME_DIR: home, HOME: home }) };
}

/** Each file and folder with its rights, size and time. */
async function stateOf(folder: string): Promise<string> {
  return (await run('find', [folder, '-printf', '%P %m %u %s %T@\\n'])).stdout.split('\n').toSorted().join('\n');
}

/** What reads a target, and what it writes for its user. */
function readersOf(target: string, home: string): readonly (readonly string[])[] {
  return [
    ['list', '--target', target],
    ['status', '--target', target],
    ['report', '--target', target, '--output', join(home, 'report')],
    ['verify', '--target', target],
    ['verify', '--target', target, '--read-data'],
    ['restore', '--target', target, '--output', join(home, 'restored')],
    ['merge', '--target', target, '--disk', 'vda', '--targetfile', join(home, 'merged.qcow2')],
    ['files', 'ls', '--target', target],
    ['mount', '--target', target, '--background', join(home, 'mnt')],
    ['export', '--target', target, '--output', join(home, 'all.tar')],
    ['prune', '--target', target, '--keep-last', '1', '--dry-run'],
    ['consolidate', '--target', target, '--keep', '1', '--dry-run'],
    ['rebase', '--target', target, '--disk', 'vda', '--dry-run'],
    ['recover', '--target', target, '--dry-run'],
  ];
}

const WRITERS = [
  ['prune', '--keep-last', '1'],
  ['consolidate', '--keep', '1'],
  ['rebase', '--disk', 'vda'],
  ['pin', 'latest'],
  ['verify', '--repair'],
  ['recover'],
] as const;

it('a file system that is read-only is read, and refused to a backup, by a dry run too', async () => {
  const lab = await scenario([{ id: 'd1' }]);
  const readOnly = join(lab.dir, 'read-only');
  await mountSmall(readOnly, 64 * MiB);
  const target = join(readOnly, 'web1');
  const ask = ['--socket', lab.vm.socket, 'backup', '--reserve', '1M', '--target'];
  await expectCli(0, [...ask, target]);
  await run('mount', ['-o', 'remount,ro', readOnly]);
  await leavingNoTrace(lab, async () => {
    for (const more of [[], ['--dry-run']]) {
      for (const to of [target, join(readOnly, 'new')]) {
        await expectRefused(
          13,
          [...ask, to, ...more],
          /read-only/,
          'read-only file system',
          'Mount that file system writable',
        );
      }
    }
    await expectCli(0, ['status', '--target', target]);
    await expectCli(0, ['verify', '--target', target, '--read-data']);
    for (const output of [join(readOnly, 'report'), join(readOnly, 'report.html')]) {
      await expectRefused(13, ['report', '--target', target, '--output', output], 'read-only file system');
    }
  });
});

describe('a target of somebody else', () => {
  it(
    'that may be read is read without a lock, and refused to whatever would change it',
    { timeout: patient(300_000) },
    async () => {
      const { lab, target, home, nobody } = await backedUp();
      await run('chmod', ['-R', 'a+rX', target]);
      const before = await stateOf(target);
      for (const args of readersOf(target, home)) {
        const { exitCode, stderr } = await nobody(args);
        expect([exitCode, stderr.replace(/^warning: .* cannot be locked .*$/m, '')], args.join(' ')).toEqual([
          0,
          expect.not.stringMatching(/error|warning/),
        ]);
      }
      await runAsNobody('cmp', [join(home, 'mnt/vda.raw'), lab.flat('vda', INC)]);
      expect((await nobody(['umount', join(home, 'mnt')])).exitCode).toBe(0);
      await expectSame(join(home, 'restored/vda.qcow2'), lab.flat('vda', INC));
      await expectSame(join(home, 'merged.qcow2'), lab.flat('vda', INC));
      for (const [verb, ...args] of WRITERS) {
        const { exitCode, stderr } = await nobody([verb, ...args, '--target', target]);
        expect([exitCode, stderr], verb).toEqual([13, expect.stringMatching(/permission denied for user nobody/)]);
      }
      expect(await stateOf(target)).toBe(before);
      expect((await readdir(home)).toSorted()).toEqual(['all.tar', 'merged.qcow2', 'report', 'restored']);
    },
  );

  it(
    'that may not be read is told by what is lacking, and nothing is left of the try',
    { timeout: patient(300_000) },
    async () => {
      const { target, home, nobody } = await backedUp();
      await run('chmod', ['-R', 'a+rX', target]);
      const before = await stateOf(target);
      const closed: readonly (readonly [string, string])[] = [
        ['', '0700'],
        ['catalog.json', '0600'],
        ['vda', '0700'],
      ];
      for (const [name, mode] of closed) {
        await run('chmod', ['-R', 'a+rX', target]);
        await run('chmod', [mode, join(target, name)]);
        for (const args of readersOf(target, home)) {
          const { exitCode, stdout, stderr } = await nobody(args);
          const said = `${args.join(' ')}, ${name}: ${exitCode} ${stdout} ${stderr}`;
          // Who only asks which points there are needs no image.
          if (exitCode !== 0) expect(said).toMatch(/cannot (?:read|look at|be looked at).*permission denied/);
          expect(said).not.toMatch(/read and write access/);
          const isOfAll = name !== 'vda' && !['status', 'report'].includes(args[0] ?? '');
          if (isOfAll) expect(exitCode, said).toBe(args[0] === 'verify' ? 4 : 13);
        }
        const status = await nobody(['status', '--target', target]);
        expect([status.exitCode, status.stdout]).toEqual([
          2,
          expect.stringMatching(/critical: .*permission denied|cannot be restored.*permission denied/),
        ]);
        await rm(join(home, 'report'), { recursive: true });
        expect(await readdir(home), name).toEqual([]);
      }
      await run('chmod', ['-R', 'a+rX', target]);
      expect(await stateOf(target)).toBe(before);

      // What was found damaged before is not known to who may not read that: no word of it would be a word that all is well.
      await chmod(join(target, 'verified.json'), 0o600);
      const status = await nobody(['status', '--target', target]);
      expect([status.exitCode, status.stdout]).toEqual([
        1,
        expect.stringMatching(/warning: .*verified\.json: permission denied/),
      ]);
      const doctor = await nobody(['doctor', '--target', target]);
      expect(doctor.stdout).toMatch(/verified\.json: permission denied/);
      expect(doctor.stdout).not.toMatch(/verified\.json.*Put the file/);
    },
  );

  it('is asked of one point where it cannot be read: the reason is told', async () => {
    const { target, home, nobody } = await backedUp();
    await chmod(target, 0o700);
    for (const args of [
      ['verify', '--boot', '--expect', 'running:1'],
      ['verify', '--point', 'latest'],
      ['boot', '--to', join(home, 'made/vm')],
    ]) {
      const { exitCode, stderr } = await nobody([...args, '--target', target]);
      expect([exitCode, stderr]).toEqual([
        13,
        expect.stringMatching(/catalog\.json: permission denied for user nobody/),
      ]);
    }
    expect(await readdir(home)).toEqual([]);
  });
});
