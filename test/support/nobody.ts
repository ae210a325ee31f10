import { execa } from 'execa';
import { PROGRAM } from './cli.js';
import { run } from './lab/programs.js';
import { patient } from './patience.js';

const UID = 65534;
const AS_NOBODY = [`--reuid=${UID}`, `--regid=${UID}`, '--clear-groups'];

/** Runs the program as a user who is not root and owns nothing but what `openTo` gave them; `without` a program of this host. */
export function asNobody(env: NodeJS.ProcessEnv) {
  return async (
    args: readonly string[],
    { without, path }: { readonly without?: string; readonly path?: string } = {},
  ) => {
    const user = [...AS_NOBODY, process.execPath, PROGRAM, ...args];
    const hidden = ['--mount', 'sh', '-c', 'mount --bind /dev/null "$0" && exec setpriv "$@"', without ?? '', ...user];
    const { exitCode, stdout, stderr } = await execa(
      without === undefined ? 'setpriv' : 'unshare',
      without === undefined ? user : hidden,
      {
        reject: false,
        timeout: patient(120_000),
        env: { NO_COLOR: '1', ...env, ...(path === undefined ? {} : { PATH: path }) },
      },
    );
    return { exitCode: exitCode ?? -1, stdout, stderr };
  };
}

/** Any program as that user. */
export async function runAsNobody(program: string, args: readonly string[]): Promise<void> {
  await run('setpriv', [...AS_NOBODY, program, ...args]);
}

/** Gives them these folders, with what is in them. */
export async function openTo(...folders: readonly string[]): Promise<void> {
  for (const folder of folders) await run('chown', ['-R', `${UID}:${UID}`, folder]);
}
