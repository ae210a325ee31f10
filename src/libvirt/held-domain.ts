/**
 * A domain that lives as long as the connection to libvirt by which it was made: that of a virsh of ours, which the kernel ends
 * with us. So it ends however we die.
 */
import { randomBytes } from 'node:crypto';
import { type ProgramEnd, startProgram } from '../host/program.js';
import { within } from '../host/within.js';
import { virshFailure, VirshMissing, VirshTimeout } from './errors.js';
import { virshEnv } from './virsh-env.js';

export interface HeldDomain {
  /** Settles when that connection is lost before us, with the words for it: the domain may go, or stay. Never rejects. */
  readonly lost: Promise<string>;
  /** Lets go of it, upon which libvirt ends it. */
  readonly close: () => Promise<void>;
}

/** libvirt may have to look first what a QEMU can do, and to start the emulator of a TPM. */
const CREATE_MS = 120_000;

/**
 * @param file with its definition
 * @throws VirshError in libvirt's words, VirshTimeout, VirshMissing, LibvirtUnreachable; the signal's reason
 */
export async function createHeld(uri: string | undefined, file: string, signal: AbortSignal): Promise<HeldDomain> {
  signal.throwIfAborted();
  const said = answerOf(randomBytes(8).toString('hex'));
  const connect = uri === undefined ? [] : ['--connect', uri];
  const program = await startProgram('setpriv', ['--pdeathsig', 'KILL', 'virsh', ...connect], {
    // Its stdin ends with us, and it then ends, too.
    ...{ stdin: 'pipe', ownSession: true, env: { ...virshEnv(), TERM: 'dumb', INPUTRC: '/dev/null' }, signal },
    ...{ onStdout: said.onStdout, onStderr: said.onStderr },
  });
  program.tell(`create --autodestroy ${asVirshWord(file)}\n${said.ask}`);
  const answer = await within(CREATE_MS, Promise.race([said.answered, program.ended]));
  const complaint = typeof answer === 'string' ? answer : answer && wordsOf(answer);
  if (complaint === '') return { lost: Promise.race([said.more, program.ended.then(wordsOf)]), close: program.kill };
  await program.kill();
  signal.throwIfAborted();
  if (complaint === undefined) throw new VirshTimeout('create', CREATE_MS);
  throw virshFailure({ command: 'create', domain: undefined, uri }, complaint);
}

/** Never empty. */
function wordsOf({ failure, stderr, signal, exitCode }: ProgramEnd): string {
  if (failure?.code === 'ENOENT' || /setpriv: failed to execute virsh/.test(stderr)) throw new VirshMissing(failure);
  return stderr.trim() || failure?.message || `virsh has ended (${signal ?? `exit code ${exitCode}`})`;
}

/** What a virsh that is fed says on stderr to the lines before a mark, and afterwards. */
function answerOf(mark: string) {
  // It repeats what it reads, and the mark comes out otherwise.
  const printed = `&lt;${mark}`;
  let [stdout, stderr] = ['', ''];
  let answer: (words: string) => void = () => undefined;
  let tellMore: (words: string) => void = () => undefined;
  const answered = new Promise<string>((resolve) => (answer = resolve));
  const more = new Promise<string>((resolve) => (tellMore = resolve));
  const hear = (): void => {
    const [before, after] = stderr.split(`error: ${printed}`);
    if (!stdout.includes(printed) || before === undefined || after === undefined) return;
    answer(before.trim());
    if (after.trim() !== '') tellMore(after.trim());
  };
  return {
    ask: `echo --xml <${mark}\necho --err --xml <${mark}\n`,
    ...{ answered, more },
    onStdout: (text: string): void => {
      stdout += text;
      hear();
    },
    onStderr: (text: string): void => {
      stderr += text;
      hear();
    },
  };
}

function asVirshWord(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}
