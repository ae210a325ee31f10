import { mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { labIn, makeDisk, pointsOf, record } from '../support/chains.js';
import { expectCli, PROGRAM } from '../support/cli.js';
import { mountHanging } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { labDir } from '../support/scenario.js';

// Completions in the shells themselves, and the manual as the tools that read it take it.

let dir: string;
let target: string;
/** The same by a name with blanks. */
const SPACED = 'two words/and $more';

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qmpshell-'));
  await mkdir(join(dir, 'bin'));
  await symlink(PROGRAM, join(dir, 'bin', 'qmpbackup'));
  const all = ['bash', 'zsh', 'fish'].flatMap((shell) => [`--${shell}-completion`, join(dir, shell)]);
  await expectCli(0, ['generate', ...all, '--man', join(dir, 'man')]);
  const lab = labIn(join(dir, 'backups'));
  const entries = await makeDisk(lab, 'd1', [
    { file: 'FULL-1.qcow2', io: ['write -P 1 0 64k'] },
    { file: 'INC-2.qcow2', on: 'FULL-1.qcow2', io: ['write -P 2 64k 64k'] },
  ]);
  await record(lab, pointsOf(entries));
  target = lab.target;
  await mkdir(join(dir, 'two words'));
  await symlink(target, join(dir, SPACED));
  await writeFile(
    join(dir, 'config.yaml'),
    'defaults: { target: "/backup/{vm}" }\nvms: { web1: { socket: /run/a }, "web two": { socket: /run/b } }\n',
  );
});

afterAll(() => rm(dir, { recursive: true }));

/** A shell on a terminal, and what it shows after what is typed, in which there are TABs. */
async function expectShown(
  shell: string,
  prepare: string,
  lines: readonly (readonly [typed: string, shown: RegExp])[],
): Promise<void> {
  const child = execa('script', ['-qfec', shell, '/dev/null'], {
    env: { PATH: `${join(dir, 'bin')}:${process.env['PATH']}`, TERM: 'dumb', HOME: dir, HISTFILE: '/dev/null' },
    ...{ cwd: dir, reject: false, buffer: false },
  });
  let seen = '';
  child.stdout.on('data', (part: Buffer) => (seen += part.toString()));
  const expectSeen = (shown: RegExp): Promise<void> =>
    expect.poll(() => seen, { timeout: patient(20_000) }).toMatch(shown);
  // What is typed before the shell reads is lost.
  await expectSeen(/[#$%>] \W*(?:\[\?2004h)?$/);
  child.stdin.write(`${prepare}; echo rea''dy\n`);
  await expectSeen(/^ready\s[^]*[#$%>] \W*(?:\[\?2004h)?$/m);
  for (const [typed, shown] of lines) {
    seen = '';
    child.stdin.write(typed);
    await expectSeen(shown);
    child.stdin.write('\x15');
  }
  child.stdin.write('exit\n');
  await child;
}

const bash = 'bash --norc --noprofile -i';

it.each([
  ['bash alone', bash, '. ./bash'],
  ['bash with bash-completion', bash, '. /usr/share/bash-completion/bash_completion; . ./bash'],
  ['zsh', 'zsh -f -i', 'autoload -U compinit; compinit -u -D; . ./zsh; compdef _qmpbackup qmpbackup'],
])('%s completes commands, options, words, files, points and disks', async (_, shell, prepare) => {
  await expectShown(shell, prepare, [
    ['qmpbackup prun\t', /qmpbackup prune /],
    ['qmpbackup --quiet backup --level \t\t', /auto\W[^]*copy[^]*diff[^]*full[^]*inc/],
    ['qmpbackup --socket /x backup --allow-pl\t', /--allow-plaintext /],
    ['qmpbackup --json=li\t', /--json=lines/],
    ['qmpbackup files fi\t--nam\t', /files find\W+--name/],
    ['qmpbackup commit --skip-c\t', /commit --skip-check /],
    ['qmpbackup list --target ./ma\t', /--target \.\/man\//],
    [`qmpbackup restore -t ${target} --disk \t`, /--disk d1/],
    [`qmpbackup pin --target=${target} \t\t`, /\b1\b[^]*\b0\b|\b0\b[^]*\b1\b/],
    [`qmpbackup restore -t ./two\\ words/and\\ \\$more --disk \t`, /--disk d1/],
    [`qmpbackup restore -t './${SPACED}' --disk \t`, /--disk d1/],
    [`qmpbackup restore -t "./two words/and \\$more" --disk \t`, /--disk d1/],
    ['qmpbackup run --config config.yaml web\\ \t', /web\\ two/],
    ['qmpbackup config show --config config.yaml web1\t', /web1 $/],
  ]);
});

describe('fish', () => {
  const offers = async (typed: string): Promise<readonly string[]> => {
    const { stdout } = await execa('fish', ['-c', 'source fish; complete -C $argv[1]', '--', typed], {
      env: { PATH: `${join(dir, 'bin')}:${process.env['PATH']}`, HOME: dir },
      cwd: dir,
    });
    return stdout.split('\n').map((line) => line.split('\t')[0] ?? '');
  };

  it('completes commands, options, words, points and disks', async () => {
    expect(await offers('qmpbackup prun')).toEqual(['prune']);
    expect(await offers('qmpbackup backup --level ')).toEqual(['auto', 'copy', 'diff', 'full', 'inc']);
    expect(await offers('qmpbackup --socket /x backup --allow-pl')).toEqual(['--allow-plaintext']);
    expect(await offers('qmpbackup --json=li')).toEqual(['--json=lines']);
    expect(await offers('qmpbackup files ')).toEqual(['find', 'get', 'ls']);
    expect(await offers('qmpbackup files find --nam')).toEqual(['--name']);
    expect(await offers('qmpbackup list --target ./ma')).toEqual(['./man/']);
    expect(await offers(`qmpbackup restore -t ${target} --disk `)).toEqual(['d1']);
    expect(await offers(`qmpbackup pin --target=${target} `)).toEqual(['0', '1']);
    expect(await offers(`qmpbackup restore -t './${SPACED}' --disk `)).toEqual(['d1']);
    expect(await offers(`qmpbackup restore -t ./two\\ words/and\\ \\$more --disk `)).toEqual(['d1']);
    expect(await offers('qmpbackup run --config config.yaml ')).toEqual(['web two', 'web1']);
  });
});

describe('complete-words', () => {
  it('says nothing where it cannot know, and so do the shells', async () => {
    expect((await expectCli(0, ['complete-words', 'points', '--', 'restore', '-t'])).stdout).toBe('');
    await expectCli(10, ['complete-words', 'points', '--', 'restore', '-t', join(dir, 'bin')]);
    await expectCli(2, ['complete-words', 'configured', '--', 'run', '--config', join(dir, 'none')]);
  });

  it('says nothing of a target that hangs, and ends', async () => {
    const hung = join(await labDir(), 'hung');
    const server = await mountHanging(hung);
    server.hang();
    expect((await expectCli(0, ['complete-words', 'points', '--', 'pin', '-t', hung])).stdout).toBe('');
    server.answer();
  });
});

describe('the manual', () => {
  it('has a page of each command, without an error or a warning', async () => {
    const pages = await readdir(join(dir, 'man'));
    expect(pages).toEqual(expect.arrayContaining(['qmpbackup.1', 'qmpbackup-backup.1', 'qmpbackup-files-ls.1']));
    const { stdout, stderr } = await execa('mandoc', ['-T', 'lint', ...pages], {
      cwd: join(dir, 'man'),
      reject: false,
    });
    expect(`${stdout}${stderr}`).toBe('');
    const { stdout: prune } = await execa('mandoc', ['-T', 'html', 'qmpbackup-prune.1'], { cwd: join(dir, 'man') });
    const text = prune
      .replaceAll(/<[^>]*>/g, ' ')
      .replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>')
      .replaceAll(/\s+/g, ' ');
    expect(text).toContain('--keep-within <time> what is not older than this, such as 30d');
    expect(text).toContain('EXAMPLES qmpbackup prune --target /backup/vm --keep-daily 7');
  });

  it('is the same wherever it is made of one version', async () => {
    const again = join(dir, 'again');
    const env = { SOURCE_DATE_EPOCH: '86400' };
    await expectCli(0, ['generate', '--man', again], { env });
    const { stdout } = await execa('head', ['-n', '1', 'qmpbackup.1'], { cwd: again });
    expect(stdout).toContain('1970-01-02');
    expect((await expectCli(2, ['generate'])).stderr).toContain('--bash-completion');
    await writeFile(join(dir, 'file'), '');
    expect((await expectCli(13, ['generate', '--man', join(dir, 'file', 'x')])).stderr).toContain('not a directory');
  });
});
