import { existsSync } from 'node:fs';
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa, type Options } from 'execa';
import { describe, expect, it } from 'vitest';
import { expectCli, PROGRAM } from '../support/cli.js';
import { onceBefore } from '../support/first-in-path.js';
import { mountHanging, mountSmall } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { scenario, type Scenario, withFull } from '../support/scenario.js';

// Nothing that only tells may end what it tells of: a record that cannot be kept is said once, and the run goes on. An
// answer that cannot be written is another thing: whoever asked did not get it, so the run ends with 1 and says what stands.

interface Ending {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The program with redirections of a shell, such as `>/dev/full`. */
async function redirected(args: readonly string[], redirections: string, options: Options = {}): Promise<Ending> {
  const line = `exec "$0" "$@" ${redirections}`;
  const result = await execa('sh', ['-c', line, process.execPath, PROGRAM, ...args], {
    reject: false,
    timeout: patient(120_000),
    env: { NO_COLOR: '1' },
    ...options,
  });
  return { exitCode: result.exitCode ?? -1, stdout: String(result.stdout), stderr: String(result.stderr) };
}

function backup(lab: Scenario, level = 'auto', target = lab.target): readonly string[] {
  return ['--socket', lab.vm.socket, 'backup', '--level', level, '--target', target];
}

function times(text: string, part: string): number {
  return text.split(part).length - 1;
}

/** A PATH with a `logger` of these lines of a shell before all others; without lines a PATH that has none. */
async function withLogger(lab: Scenario, script: string | null): Promise<Options> {
  const dir = join(lab.dir, 'programs');
  await mkdir(dir);
  if (script !== null) {
    await writeFile(join(dir, 'logger'), `#!/bin/sh\n${script}\n`);
    await chmod(join(dir, 'logger'), 0o755);
    return { env: { NO_COLOR: '1', PATH: `${dir}:${process.env['PATH']}` } };
  }
  const qemuImg = (await execa('which', ['qemu-img'])).stdout;
  await symlink(qemuImg, join(dir, 'qemu-img'));
  return { env: { NO_COLOR: '1', PATH: dir } };
}

describe('a record that cannot be kept', () => {
  it('is said once, and the backup is taken', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    for (const more of [[], ['--quiet'], ['--debug'], ['--json']]) {
      const { stderr } = await expectCli(0, ['--logfile', '/dev/full', ...more, ...backup(lab)]);
      expect(times(stderr, '--logfile /dev/full: no space left on device')).toBe(1);
      expect(stderr).not.toMatch(/^node:|^ {4}at /m);
    }
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('keeps what it has room for, also where the file system is full before the run begins', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const folder = join(lab.dir, 'small');
    await mountSmall(folder, 4096);
    const log = ['--logfile', join(folder, 'log')];
    const { stderr } = await expectCli(0, ['--debug', ...log, ...backup(lab)]);
    expect(times(stderr, 'no space left on device')).toBe(1);
    expect(await readFile(join(folder, 'log'), 'utf8')).toMatch(/ debug > \{.*"query-block"/);
    const other = ['--logfile', join(folder, 'other')];
    expect(times((await expectCli(0, [...other, ...backup(lab)])).stderr, 'no space left on device')).toBe(1);
    await execa('rm', [join(folder, 'log')]);
    expect((await expectCli(0, [...other, ...backup(lab)])).stderr).not.toContain('no space left on device');
  });

  it('loses its folder in the middle', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const folder = join(lab.dir, 'logs');
    await mkdir(folder);
    await onceBefore('qemu-img', 'check', `rm -rf ${folder}`);
    const { stderr } = await expectCli(0, ['--logfile', join(folder, 'log'), ...backup(lab)]);
    expect(existsSync(folder)).toBe(false);
    expect(times(stderr, 'no such file or directory')).toBe(1);
  });

  it('leaves an error what it is: its exit code, its words, no stack', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const { stderr } = await expectCli(13, ['--logfile', '/dev/full', ...backup(lab, 'inc')]);
    expect(stderr).toContain('error: ');
    expect(stderr).not.toMatch(/^node:|^ {4}at /m);
  });

  it('is a folder that is not there, or a pipe without a reader: refused before anything begins', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const pipe = join(lab.dir, 'pipe');
    await execa('mkfifo', [pipe]);
    for (const path of ['/none/x', lab.dir, pipe]) {
      const { stderr } = await expectCli(2, ['--logfile', path, ...backup(lab)]);
      expect(stderr).toContain(`--logfile ${path} cannot be written`);
    }
    expect(existsSync(lab.target)).toBe(false);
  });

  it('on a network file system keeps what is said, and does not hold up the run once that hangs', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const folder = join(lab.dir, 'network');
    const mount = await mountHanging(folder);
    const log = ['--logfile', join(folder, 'log')];
    await expectCli(0, [...log, ...backup(lab)]);
    expect(await readFile(join(folder, 'log'), 'utf8')).toMatch(/ info sealed point 0 of chain /);
    mount.hang();
    const { stderr } = await expectCli(0, [...log, ...backup(lab)], { timeout: patient(30_000) });
    expect(times(stderr, 'did not end within')).toBe(1);
  });

  it('is syslog: missing, failing, or hanging', async () => {
    const scripts = [
      { script: null, why: 'ENOENT' },
      { script: 'echo "logger: nobody there" >&2; exit 1', why: 'logger: nobody there' },
      { script: 'exec sleep 1000', why: 'did not end within' },
      { script: 'kill -SEGV $$', why: 'SIGSEGV' },
    ];
    for (const { script, why } of scripts) {
      const lab = await scenario([{ id: 'd1' }]);
      const options = { ...(await withLogger(lab, script)), timeout: patient(30_000) };
      const { stderr } = await expectCli(0, ['--syslog', ...backup(lab)], options);
      expect(times(stderr, 'warning: --syslog: ')).toBe(1);
      expect(stderr).toContain(why);
    }
  });

  it('a syslog that works is told everything, in order', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const kept = join(lab.dir, 'kept');
    const logger = await withLogger(lab, `echo "$@" >>${kept}`);
    await expectCli(0, ['--syslog', ...backup(lab)], logger);
    expect(await readFile(kept, 'utf8')).toMatch(
      /-t qmpbackup -p user\.info -- d1: FULL, [^]*-p user\.info -- sealed point 0 of chain /,
    );
    // Longer than an argument of a program can be.
    await expectCli(0, ['--syslog', '--debug', ...backup(lab)], { ...logger, timeout: patient(60_000) });
  });

  it('is the screen: stderr full or closed', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    for (const redirection of ['2>/dev/full', '2>&-', '2>/dev/full --debug', '2>&- --debug']) {
      const [to, debug] = redirection.split(' ');
      const { exitCode, stdout } = await redirected([...(debug ? [debug] : []), ...backup(lab)], to ?? '');
      expect(exitCode).toBe(0);
      expect(stdout).toContain('sealed point');
    }
    await lab.expectChainEqualsDisks();
  });
});

describe('an answer that cannot be written', () => {
  it('ends the backup with 1, and stderr says that the point is sealed', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    for (const more of [[], ['--json'], ['--quiet']]) {
      const { exitCode, stderr } = await redirected([...more, ...backup(lab)], '>/dev/full');
      expect(exitCode).toBe(1);
      expect(stderr).toMatch(
        /error: the answer could not be written to stdout: no space left on device; the point is sealed\n/,
      );
      expect(stderr).toMatch(/sealed point \d of chain \w+ in /);
      expect(stderr).not.toMatch(/^node:|^ {4}at /m);
    }
    const rehearsed = await redirected([...backup(lab), '--dry-run'], '>/dev/full');
    expect(rehearsed).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('nothing was changed') as string });
    const refused = await redirected(['--json', ...backup(lab), '--include', 'd9'], '>/dev/full');
    expect(refused).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('--include d9') as string });
    await lab.expectChainEqualsDisks();
    await lab.expectNothingLeft(2);
  });

  it('also where all of it is lost, or only its end', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    expect(await redirected(backup(lab), '>/dev/full 2>/dev/full')).toMatchObject({ exitCode: 1 });
    const folder = join(lab.dir, 'small');
    await (await mountSmall(folder, 64 * 1024)).fillBut(0);
    await execa('truncate', ['-s', '61440', join(folder, 'somebody-else')]);
    for (let point = 0; point < 6; point += 1) await lab.backup('full');
    const listed = await redirected(['--json', 'list', '--target', lab.target], `>${folder}/answer`);
    expect(listed).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('no space left on device') as string });
  });

  it('of every command, with what stands', async () => {
    const lab = await withFull();
    await lab.backup('inc');
    const { socket } = lab.vm;
    const disk = join(lab.target, 'd1');
    const out = join(lab.dir, 'out');
    const answers: readonly (readonly [readonly string[], string])[] = [
      [['list', '--target', lab.target], 'nothing was changed'],
      [['--socket', socket, 'info'], 'nothing was changed'],
      [['--socket', socket, 'doctor', '--target', lab.target], 'nothing was changed'],
      [['restore', '--target', lab.target, '--output', out], `restored into ${out}`],
      [['merge', '--dir', disk, '--targetfile', join(lab.dir, 'merged.qcow2')], 'merged.qcow2 is complete'],
      [['rebase', '--dir', disk, '--dry-run'], 'nothing was changed'],
      [['rebase', '--dir', disk], 'is merged'],
      [['--socket', socket, 'recover', '--target', lab.target], 'what could be repaired is repaired'],
      [['--socket', socket, 'cleanup', '--remove-bitmaps', '--dry-run'], 'nothing was changed'],
      [['--socket', socket, 'cleanup', '--remove-bitmaps'], 'what was to go is removed'],
      [['--help'], 'could not be written'],
      [['backup', '--help'], 'could not be written'],
      [['--version'], 'could not be written'],
    ];
    for (const [args, words] of answers) {
      const { exitCode, stderr } = await redirected(args, '>/dev/full');
      expect({ args, exitCode, stderr }).toMatchObject({
        exitCode: 1,
        stderr: expect.stringContaining(words) as string,
      });
    }
  });

  it('a target on a network file system: all that holds there, too', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const folder = join(lab.dir, 'network');
    await mountHanging(folder);
    const target = join(folder, 'target');
    const unanswered = await redirected(backup(lab, 'auto', target), '>/dev/full');
    expect(unanswered).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('the point is sealed') as string });
    const unrecorded = await redirected(['--logfile', '/dev/full', ...backup(lab, 'auto', target)], '2>/dev/full');
    expect(unrecorded).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('sealed point 1') as string });
    const { stderr } = await expectCli(0, ['--logfile', '/dev/full', ...backup(lab, 'auto', target)]);
    expect(times(stderr, 'no space left on device')).toBe(1);
    await lab.expectChainEqualsDisks(target);
  });

  it('that nobody reads any more is none: the run ends as it would', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const line = `set -o pipefail; "$0" "$@" | true`;
    const args = ['-c', line, process.execPath, PROGRAM, ...backup(lab)];
    expect((await execa('bash', args, { reject: false })).exitCode).toBe(0);
    await lab.expectChainEqualsDisks();
  });
});
