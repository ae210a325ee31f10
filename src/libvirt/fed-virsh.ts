import { type Program, type ProgramOptions, startProgram } from '../host/program.js';
import { virshEnv } from './virsh-env.js';

/**
 * A virsh that is fed lines. The kernel ends it with us: at the end of its input it would write what it was told into the user's
 * history. `connect`: its arguments.
 */
export function startFedVirsh(
  connect: readonly string[],
  hearing: Pick<ProgramOptions, 'onStdout' | 'onStderr' | 'signal'>,
): Promise<Program> {
  return startProgram('setpriv', ['--pdeathsig', 'KILL', 'virsh', ...connect], {
    ...{ stdin: 'pipe', ownSession: true, env: { ...virshEnv(), TERM: 'dumb', INPUTRC: '/dev/null' } },
    ...hearing,
  });
}

/**
 * On both streams, what is on stderr last: virsh prints all before that. It repeats what it reads, and a mark comes out
 * otherwise than it went in (`printedMark`).
 */
export function echoOnBoth(mark: string): string {
  return `echo --xml <${mark}; echo --err --xml <${mark}`;
}

export function printedMark(mark: string): string {
  return `&lt;${mark}`;
}
