import { join } from 'node:path';
import { execa } from 'execa';
import { PROGRAM } from './cli.js';
import { run } from './lab/programs.js';
import { patient } from './patience.js';

/** The program, run by a user who is not root. Needs root to begin with. */
export interface AnotherUser {
  readonly home: string;
  run(args: readonly string[]): ReturnType<typeof start>;
}

/** `nobody`, with a folder of his in `root`, through which he may go. */
export async function anotherUser(root: string): Promise<AnotherUser> {
  const home = join(root, 'home');
  await run('chmod', ['a+rx', root]);
  await run('install', ['-d', '-o', 'nobody', '-g', 'nogroup', '-m', '0700', home]);
  return { home, run: (args) => start(args, home) };
}

function start(args: readonly string[], home: string) {
  const user = ['--reuid=nobody', '--regid=nogroup', '--clear-groups'];
  return execa('setpriv', [...user, process.execPath, PROGRAM, ...args], {
    ...{ reject: false, cwd: home, timeout: patient(120_000) },
    env: { TMPDIR: home, XDG_RUNTIME_DIR: home, NO_COLOR: '1' },
  });
}
