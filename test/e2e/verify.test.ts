import { execa } from 'execa';
import { chmod, cp, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { requireCatalog } from '../../src/repository/catalog-file.js';
import { leaveMark } from '../../src/repository/open-mark.js';
import { lockTarget } from '../../src/repository/lock.js';
import { expectSame, type Lab, makeDisk, makeLab, photograph, pointsOf, record, rot } from '../support/chains.js';
import { expectCli, PROGRAM, qmpbackup } from '../support/cli.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { firstInPath } from '../support/first-in-path.js';
import { checkedLines } from '../support/json-answer.js';
import { run } from '../support/lab/programs.js';
import { afterTest, type Scenario, scenario, textsOf, withFull, writeBoth } from '../support/scenario.js';
import { imagesIn } from '../support/target-files.js';

interface Answer {
  readonly targets: readonly {
    readonly target: string;
    readonly findings: readonly { readonly level: string; readonly code: string; readonly file: string | null }[];
    readonly lost: readonly string[];
    readonly files: number;
    readonly read: { readonly files: number; readonly bytes: number };
  }[];
}

interface Memory {
  readonly targetId: string;
  readonly files: readonly {
    readonly file: string;
    readonly readAt: string | null;
    readonly damage: { readonly code: string } | null;
  }[];
}

const [FULL, INC, LAST] = ['FULL-100.qcow2', 'INC-101.qcow2', 'INC-102.qcow2'] as const;

/** FULL <- INC <- INC of `vda`. */
async function chain(): Promise<Lab> {
  const lab = await makeLab();
  const entries = await makeDisk(lab, 'vda', [
    { file: FULL, io: ['write -P 1 0 2M'] },
    { file: INC, on: FULL, io: ['write -P 2 1M 1M'] },
    { file: LAST, on: INC, io: ['write -P 3 2M 1M'] },
  ]);
  await record(lab, pointsOf(entries));
  return lab;
}

async function verify(exitCode: number, target: string, ...more: readonly string[]): Promise<Answer['targets']> {
  return (await expectCli(exitCode, ['--json', 'verify', '--target', target, ...more])).json<Answer>().targets;
}

async function memoryOf({ target }: Pick<Lab, 'target'>): Promise<Memory> {
  return JSON.parse(await readFile(join(target, 'verified.json'), 'utf8')) as Memory;
}

describe('verify of a folder', () => {
  it('without anything of ours, or that is not there, ends with 10', async () => {
    const { root } = await makeLab();
    await mkdir(join(root, 'a/b'), { recursive: true });
    await writeFile(join(root, 'a/FULL-1480542683-disk'), 'of the Python tool');
    for (const folder of [root, join(root, 'none')]) {
      expect((await expectCli(10, ['verify', '--target', folder])).stderr).toContain('no catalog.json');
    }
  });

  it('of many targets looks at each, tells of one that is locked or damaged, and goes on', async () => {
    const lab = await chain();
    const names = ['a', 'b', 'vm/2026-10', 'vm/2026-11'];
    const root = join(lab.root, 'many');
    for (const name of names) {
      await cp(lab.target, join(root, name), { recursive: true, preserveTimestamps: true });
    }
    await mkdir(join(root, 'lost+found'));
    const all = await verify(0, root);
    expect(all.map(({ target, files }) => [target.slice(root.length + 1), files])).toEqual(
      names.map((name) => [name, 3]),
    );
    expect((await verify(0, root, '--monthly', '--vm-name', 'vm')).map(({ files }) => files)).toEqual([3, 3]);
    expect((await verify(0, join(root, 'vm'), '--monthly')).length).toBe(2);
    await expectCli(2, ['verify', '--target', root, '--vm-name', 'vm']);
    expect((await expectCli(2, ['verify', '--target', root, '--point', '1'])).stderr).toContain(
      '--point is of one target',
    );

    const lock = await lockTarget(join(root, 'b'), { breakLock: false, purpose: 'a test' });
    try {
      const locked = await verify(3, root);
      expect(locked.map(({ findings }) => findings.map(({ code }) => code))).toEqual([[], ['locked'], [], []]);
      expect((await expectCli(11, ['verify', '--target', join(root, 'b')])).stderr).toContain('is locked by');
      for (const name of ['catalog.json', 'catalog-copy-1.json']) await rm(join(root, 'vm/2026-11', name));
      const found = await verify(4, root);
      expect(found.at(-1)?.findings).toMatchObject([{ level: 'error', code: 'no-catalog', file: 'catalog.json' }]);
    } finally {
      await lock.release();
    }
    const { stdout } = await expectCli(4, ['verify', '--target', root]);
    expect(stdout).toMatch(/many\/a: 3 points, 3 files looked at: nothing wrong\n/);
    expect(stdout).toMatch(/error {4}target: catalog.json: it is missing.*\(3 files lie here/);
  });

  it('takes a first run that died for no lost catalog', async () => {
    const { target, root } = await makeLab();
    await mkdir(join(target, 'vda'), { recursive: true });
    const lab = await chain();
    await writeFile(join(target, 'vda', 'FULL-1.qcow2.partial'), 'x');
    expect((await verify(4, target))[0]?.findings).toMatchObject([{ code: 'no-catalog' }]);
    const journal = {
      ...{ schema: 1, attempt: '0123456789ab', startedAt: '2026-11-21T12:00:00.000Z', what: 'backup' },
      ...{
        monitor: '',
        vm: { uuid: null, name: 'vm', label: null },
        madeFolders: ['vda'],
        freezes: null,
        stops: false,
      },
      disks: [{ disk: 'vda', bitmap: null, job: 'j', file: 'FULL-1.qcow2' }],
    };
    await writeFile(join(target, 'run.json'), JSON.stringify(journal));
    expect((await verify(0, root))[0]?.findings).toMatchObject([{ level: 'info', code: 'unsealed-run' }]);
    await rename(join(lab.folder('vda'), FULL), join(target, 'vda', 'FULL-9.qcow2'));
    expect((await verify(4, target))[0]?.findings).toMatchObject([{ code: 'no-catalog' }, { code: 'unsealed-run' }]);
  });
});

describe('verify --read-data', () => {
  it('of 1/7 to 7/7 reads every file once; --outdated-after leaves out what was read', async () => {
    const lab = await chain();
    const read: number[] = [];
    for (let part = 1; part <= 7; part += 1) {
      const [target] = await verify(0, lab.target, `--read-data=${part}/7`);
      read.push(target?.read.files ?? 0);
    }
    expect(read.reduce((sum, each) => sum + each, 0)).toBe(3);
    expect((await memoryOf(lab)).files.map(({ readAt }) => readAt)).not.toContain(null);
    expect((await verify(0, lab.target, '--outdated-after', '30d'))[0]?.read.files).toBe(0);
    expect((await verify(0, lab.target, '--read-data=50%', '--outdated-after', '30d'))[0]?.read.files).toBe(0);
    expect((await verify(0, lab.target, '--read-data'))[0]?.read.files).toBe(3);
    for (const wrong of ['8/7', '0%', 'most']) await expectCli(2, ['verify', '-t', lab.target, `--read-data=${wrong}`]);
    await expectCli(2, ['verify', '-t', lab.target, '--outdated-after', '30']);
  });

  it('of 10% goes round in ten runs, with what was not read for the longest', async () => {
    const lab = await chain();
    const before = new Set<string>();
    for (let turn = 0; turn < 10 && before.size < 3; turn += 1) {
      const [target] = await verify(0, lab.target, '--read-data=10%');
      expect(target?.read.files).toBe(1);
      for (const { file, readAt } of (await memoryOf(lab)).files) if (readAt !== null) before.add(file);
    }
    expect(before.size).toBe(3);
  });

  it('of one point reads only its files, and tells how far it is', async () => {
    const lab = await chain();
    const args = ['verify', '--target', lab.target, '--point', '1', '--read-data', '--rate-limit', '100M'];
    const { stdout } = await expectCli(0, ['--json=lines', ...args]);
    const lines = checkedLines(stdout);
    const progress = lines.flatMap((line) => (line.type === 'progress' && line.unit === 'bytes' ? line.parts : []));
    expect(progress.at(-1)).toMatchObject({ name: 'vda' });
    expect(progress.at(-1)?.done).toBe(progress.at(-1)?.total);
    const last = lines.at(-1);
    expect(last?.type === 'answer' && last.answer).toMatchObject({ targets: [{ files: 2, read: { files: 2 } }] });
    await rot(join(lab.folder('vda'), LAST));
    await verify(0, lab.target, '--point', '1', '--read-data');
    expect((await verify(4, lab.target, '--point', '2', '--read-data'))[0]?.lost).toEqual(['point 2']);
    await expectCli(2, ['verify', '--target', lab.target, '--point', '7']);
  });

  it('hashes a copied file once, and remembers that it is right', async () => {
    const lab = await chain();
    await run('touch', [join(lab.folder('vda'), INC)]);
    expect((await verify(0, lab.target))[0]?.read.files).toBe(1);
    expect((await verify(0, lab.target))[0]?.read.files).toBe(0);
  });
});

describe('what verify remembers', () => {
  it('is damage until the file reads right again; nothing that cannot be read now', async () => {
    const lab = await chain();
    const path = join(lab.folder('vda'), INC);
    await run('cp', ['-p', path, join(lab.root, 'aside')]);
    await rot(path);
    await verify(0, lab.target);
    await verify(4, lab.target, '--read-data');
    expect((await memoryOf(lab)).files.find(({ file }) => file === INC)).toMatchObject({ damage: { code: 'damaged' } });
    // From then on also without reading all: it is read, and believed.
    const [again] = await verify(4, lab.target);
    expect(again).toMatchObject({ lost: ['point 1', 'point 2'], read: { files: 1 } });
    const list = await expectCli(0, ['list', '--target', lab.target]);
    expect(list.stdout.match(/NOT RESTORABLE, vda\/INC-101.qcow2: verify found on/g)).toHaveLength(2);
    expect(list.stderr).toContain('warning: vda/INC-101.qcow2: verify found on');
    const output = join(lab.root, 'out');
    const restored = await expectCli(4, ['restore', '--target', lab.target, '--output', output]);
    expect(restored.stderr).toMatch(/warning: vda\/INC-101.qcow2: its bytes .* Lost with it is vda of point 2\nerror:/);
    const merge = ['merge', '--target', lab.target, '--disk', 'vda', '--targetfile', `${output}.qcow2`];
    expect((await expectCli(4, merge)).stderr).toContain('INC-101.qcow2 is damaged');
    await expectCli(0, ['restore', '--target', lab.target, '--output', output, '--point', '0']);

    await run('cp', ['-p', join(lab.root, 'aside'), path]);
    await rm(output, { recursive: true });
    await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
    expect((await expectCli(0, ['list', '--target', lab.target])).stdout).toContain('NOT RESTORABLE');
    await verify(0, lab.target);
    expect((await memoryOf(lab)).files.find(({ file }) => file === INC)).toMatchObject({ damage: null });
    expect((await expectCli(0, ['list', '--target', lab.target])).stdout).not.toContain('NOT RESTORABLE');

    await rm(path);
    await verify(4, lab.target);
    await run('cp', ['-p', join(lab.root, 'aside'), path]);
    await verify(0, lab.target);
    if (process.getuid?.() === 0) {
      await chmod(path, 0);
      await run('chown', ['-R', 'nobody', lab.root]);
      const asNobody = ['--reuid=nobody', '--clear-groups', process.execPath, PROGRAM];
      const args = ['verify', '--target', lab.target, '--read-data'];
      const { stdout } = await run('setpriv', [...asNobody, ...args], { allowed: [4] });
      expect(stdout).toMatch(
        /cannot be used: cannot read .*permission denied for user nobody .*-> Give this user the right/,
      );
    }
    expect((await memoryOf(lab)).files.find(({ file }) => file === INC)).toMatchObject({ damage: null });
  });

  it('is not what storage cannot read now', async () => {
    const lab = await chain();
    const path = join(lab.folder('vda'), INC);
    const storage = await failingAt(path, join(lab.root, 'under'), 1024 * 1024);
    try {
      const [target] = await verify(4, lab.target, '--read-data');
      expect(target?.findings).toMatchObject([{ level: 'error', code: 'unreadable', file: INC }]);
      expect(target?.lost).toEqual(['point 1', 'point 2']);
      expect((await memoryOf(lab)).files.map(({ damage }) => damage)).toEqual([null, null]);
    } finally {
      await storage.end();
    }
    await verify(0, lab.target, '--read-data');
  });

  it.each([
    ['was ended', 'kill -KILL $$'],
    ['finds no memory', 'echo "qemu-img: Could not open: Cannot allocate memory" >&2; exit 1'],
    ['may open no file more', 'echo "qemu-img: Could not open: Too many open files" >&2; exit 1'],
  ])('is not what a qemu-img says that %s', async (_why, script) => {
    const lab = await chain();
    await firstInPath('qemu-img', lab.root, `[ "$1" = check ] && { ${script}; }\nPATH=\${PATH#*:} exec qemu-img "$@"`);
    const [first] = await verify(4, lab.target);
    expect(first?.findings.map(({ code }) => code)).toEqual(['unreadable', 'unreadable', 'unreadable']);
    expect(await readdir(lab.target)).not.toContain('verified.json');
  });

  it('is begun anew where verified.json is damaged or of another target', async () => {
    const lab = await chain();
    await verify(0, lab.target, '--read-data');
    const path = join(lab.target, 'verified.json');
    const foreign = JSON.stringify({ ...(await memoryOf(lab)), targetId: 'ffffffffffffffff' });
    for (const text of ['{', '[]', foreign]) {
      await writeFile(path, text);
      const warned = (await expectCli(0, ['--json', 'list', '--target', lab.target])).stdout;
      expect(warned).toContain('memory-lost');
      expect((await verify(5, lab.target, '--strict', '--read-data'))[0]?.findings).toMatchObject([
        { level: 'warning', code: 'bad-memory', file: 'verified.json' },
      ]);
      expect((await memoryOf(lab)).files).toHaveLength(3);
      await verify(0, lab.target);
    }
  });

  it('is written as it goes: a run that is ended has kept what it read', async () => {
    const lab = await chain();
    const args = ['verify', '--target', lab.target, '--read-data', '--rate-limit', '1M'];
    const { exitCode } = await qmpbackup(args, { timeout: 5_000, killSignal: 'SIGTERM' });
    expect(exitCode).toBe(143);
    const read = (await memoryOf(lab)).files.filter(({ readAt }) => readAt !== null);
    expect(read.length).toBeGreaterThan(0);
    expect(read.length).toBeLessThan(3);
    await verify(0, lab.target);
  });
});

describe('verify --repair', () => {
  it('waits while somebody has files of the target open, as serve has', async () => {
    const lab = await chain();
    const close = await leaveMark(lab.target, 'serve', [`vda/${FULL}`]);
    const { stderr } = await expectCli(11, ['verify', '--target', lab.target, '--repair']);
    expect(stderr).toContain(`vda/${FULL} is open: serve`);
    await verify(0, lab.target);
    await close();
    await verify(0, lab.target, '--repair');
  });

  const HARM = '{"schema":1,';

  it('says what it has done, keeps what it takes away, and has nothing to do the next time', async () => {
    const lab = await chain();
    await writeFile(join(lab.target, 'catalog.json'), HARM);
    await writeFile(join(lab.folder('vda'), 'INC-103.qcow2.partial'), 'half');
    const found = await expectCli(4, ['verify', '--target', lab.target]);
    expect(found.stdout).toMatch(/is damaged: .* -> Take it from its copy, of 3 points, the newest of 2026-11-21T12/);
    const { stdout } = await expectCli(0, ['verify', '--target', lab.target, '--repair']);
    expect(stdout).toMatch(
      /^moved vda\/INC-103.qcow2.partial to stray-\d+T\d+Z\ntook catalog.json from its copy, of 3 points/,
    );
    const stray = /stray-\S+/.exec(stdout)?.[0] ?? 'none';
    expect(await readFile(join(lab.target, stray, 'catalog.json.damaged'), 'utf8')).toBe(HARM);
    expect(await readFile(join(lab.target, stray, 'vda', 'INC-103.qcow2.partial'), 'utf8')).toBe('half');
    const again = await expectCli(0, ['verify', '--target', lab.target, '--repair']);
    expect(again.stdout).toMatch(/^\S+: 3 points, 3 files looked at: nothing wrong$/m);
    expect((await verify(0, lab.root))[0]?.target).toBe(lab.target);
    await expectCli(2, ['verify', '--target', lab.target, '--repair', '--point', '1']);
  });

  it('moves what only the lost catalog knew, where its copy is the one of before', async () => {
    const lab = await chain();
    // As after a run that was killed between its commit and the copy.
    const { points, ...rest } = await requireCatalog(lab.target);
    await writeFile(join(lab.target, 'catalog-copy-1.json'), JSON.stringify({ ...rest, points: points.slice(0, 2) }));
    await writeFile(join(lab.target, 'catalog.json'), HARM);
    const { stdout } = await expectCli(0, ['verify', '--target', lab.target, '--repair']);
    expect(stdout).toMatch(/moved vda\/INC-102.qcow2 to stray-/);
    const output = join(lab.root, 'out');
    await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
    await expectSame(join(output, 'vda.qcow2'), lab.flat('vda', INC));
  });

  it.each<CrashPoint & { readonly name: string }>([
    { name: 'before a stray is moved', when: 'before', call: 'rename', matches: /INC-103/ },
    { name: 'after a stray was moved', when: 'after', call: 'rename', matches: /INC-103/ },
    { name: 'when the catalog is away', when: 'after', call: 'rename', matches: /catalog\.json\.damaged$/ },
    { name: 'before the copy is in its place', when: 'before', call: 'rename', matches: /catalog\.json$/ },
    { name: 'after the copy is in its place', when: 'after', call: 'rename', matches: /catalog\.json$/ },
    { name: 'when a link was changed', when: 'after', call: 'spawn', matches: /^qemu-img rebase/ },
  ])('killed $name is done by the next one, and no run takes the folder for a new target', async (point) => {
    const lab = await chain();
    await writeFile(join(lab.target, 'catalog.json'), HARM);
    await writeFile(join(lab.folder('vda'), 'INC-103.qcow2'), 'half');
    const last = join(lab.folder('vda'), LAST);
    await run('qemu-img', ['rebase', '-u', '-f', 'qcow2', '-F', 'qcow2', '-b', FULL, last]);
    await crashCli(point, ['verify', '--target', lab.target, '--repair']);
    const list = await qmpbackup(['list', '--target', lab.target]);
    expect([0, 13]).toContain(list.exitCode);
    const answer = await verify(0, lab.target, '--repair', '--read-data');
    expect(answer).toMatchObject([{ findings: [], lost: [], read: { files: 3 } }]);
    const output = join(lab.root, 'out');
    await expectCli(0, ['restore', '--target', lab.target, '--output', output]);
    await expectSame(join(output, 'vda.qcow2'), lab.flat('vda', LAST));
  });

  it('leaves alone what it cannot judge, and is not done beside a run', async () => {
    const lab = await chain();
    const before = await photograph(lab.target);
    await lockTarget(lab.target, { breakLock: false, purpose: 'a test' }).then(async (lock) => {
      await expectCli(11, ['verify', '--target', lab.target, '--repair']);
      await lock.release();
    });
    expect(await photograph(lab.target)).toEqual(before);
    for (const name of ['catalog.json', 'catalog-copy-1.json']) await rm(join(lab.target, name));
    const without = await photograph(lab.target);
    await verify(4, lab.target, '--repair');
    expect(await photograph(lab.target)).toEqual(without);
    await writeFile(join(lab.target, 'catalog.json'), '{"schema":99}');
    await verify(4, lab.target, '--repair');
    expect(await readFile(join(lab.target, 'catalog.json'), 'utf8')).toBe('{"schema":99}');
  });

  it('keeps a VM from beginning anew in a target whose catalog is lost, and lets it go on after', async () => {
    const lab = await withFull();
    await rm(join(lab.target, 'catalog.json'));
    const backup = ['--socket', lab.vm.socket, 'backup', '--target', lab.target];
    expect((await expectCli(13, backup)).stderr).toMatch(
      /catalog.json is missing, and its copy is there\nhint: .*--repair/,
    );
    await verify(0, lab.target, '--repair');
    await writeBoth(lab, 3, 0x22);
    const inc = await lab.backup('inc');
    expect(inc.point.disks.map(({ level }) => level)).toEqual(['inc', 'inc']);
    await lab.expectChainEqualsDisks();
  });
});

/** A file that storage fails to read at one place (EIO), until that is ended. */
async function failingAt(path: string, under: string, offset: number): Promise<{ end(): Promise<unknown> }> {
  await run('cp', ['-p', path, under]);
  const { mtimeMs } = await stat(path);
  const node = {
    ...{ driver: 'blkdebug', 'node-name': 'n', image: { driver: 'file', filename: under } },
    'inject-error': [{ event: 'none', iotype: 'read', errno: 5, sector: offset / 512 }],
  };
  const exported = `type=fuse,id=e,node-name=n,mountpoint=${path}`;
  const daemon = execa('qemu-storage-daemon', ['--blockdev', JSON.stringify(node), '--export', exported], {
    reject: false,
  });
  const end = async (): Promise<void> => {
    daemon.kill();
    await daemon;
    await rm(under, { force: true });
  };
  afterTest(end);
  await expect.poll(async () => (await stat(path)).mtimeMs !== mtimeMs).toBe(true);
  return { end };
}

/** The newest image of a disk damaged as storage does it, with its time; gives it back. */
async function harmed(lab: Scenario, disk: string): Promise<() => Promise<unknown>> {
  const file = (await imagesIn(join(lab.target, disk))).at(-1)!;
  const path = join(lab.target, disk, file);
  await run('cp', ['-p', path, join(lab.dir, `aside-${disk}`)]);
  await rot(path);
  return () => run('cp', ['-p', join(lab.dir, `aside-${disk}`), path]);
}

describe('a VM whose backup verify has found damaged', () => {
  it('gets a FULL of that disk and no increment; what is put back and verified is built on again', async () => {
    const lab = await withFull();
    await writeBoth(lab, 3, 0x22);
    await lab.backup('inc');
    const putBack = await harmed(lab, 'd1');
    await verify(4, lab.target, '--read-data');
    const backup = ['--socket', lab.vm.socket, 'backup', '--target', lab.target];
    const why = /d1.*its earlier backup cannot be built on: INC-\d+.qcow2: verify found on .*: its bytes are no longer/;
    expect((await expectCli(13, [...backup, '--level', 'inc'])).stderr).toMatch(why);
    const dry = await expectCli(0, ['--json', ...backup, '--dry-run']);
    expect(dry.stdout).toMatch(/its earlier backup cannot be built on/);
    const doctor = await expectCli(0, ['--socket', lab.vm.socket, 'doctor', '--target', lab.target]);
    expect(doctor.stdout).toMatch(
      /d1\/INC-\d+.qcow2 cannot be built on or restored from: INC-\d+.qcow2: verify found on/,
    );

    await putBack();
    // It is right by now, and only verify makes sure of that.
    await expectCli(13, [...backup, '--level', 'inc']);
    await verify(0, lab.target);
    await writeBoth(lab, 5, 0x33);
    const inc = await lab.backup('inc');
    expect(inc.point.disks.map(({ disk, level }) => [disk, level])).toEqual([
      ['d1', 'inc'],
      ['d2', 'inc'],
    ]);
    await lab.expectChainEqualsDisks();

    await harmed(lab, 'd1');
    await verify(4, lab.target, '--read-data');
    await writeBoth(lab, 7, 0x44);
    const auto = await lab.backup('auto');
    expect(auto.point.disks.map(({ disk, level }) => [disk, level])).toEqual([
      ['d1', 'full'],
      ['d2', 'inc'],
    ]);
    expect(textsOf(auto.warnings).join()).toMatch(
      /d1\/INC-\d+.qcow2: verify found on .* Lost with it is d1 of point 2/,
    );
    await lab.expectChainEqualsDisks();
    // The damage is still told, and nothing that is whole suffers from it.
    expect((await verify(4, lab.target))[0]?.lost).toEqual(['point 2']);
    const after = await lab.backup('inc');
    expect(after.point.disks.every(({ level }) => level === 'inc')).toBe(true);
    await lab.expectChainEqualsDisks();
  });

  it('is told of all disks that are hit, before a restore begins', async () => {
    const lab = await scenario();
    await writeBoth(lab, 0, 0x11, 4);
    await lab.backup('full');
    const putBack = [await harmed(lab, 'd1'), await harmed(lab, 'd2')];
    await verify(4, lab.target, '--read-data');
    const restore = ['restore', '--target', lab.target, '--output', join(lab.dir, 'out')];
    const { stderr } = await expectCli(4, restore);
    for (const disk of ['d1', 'd2'])
      expect(stderr).toMatch(new RegExp(`warning: ${disk}/FULL.* Lost with it is ${disk} of`));
    expect(stderr).not.toContain('restoring');
    await putBack[0]?.();
    await expectCli(0, [...restore, '--disk', 'd1']);
  });
});
