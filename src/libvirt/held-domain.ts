/**
 * A domain that lives as long as the connection to libvirt by which it was made: that of a virsh of ours, which the kernel ends
 * with us. So it ends however we die.
 */
import { randomBytes } from 'node:crypto';
import { asShellWord } from '../core/shell-word.js';
import type { ProgramEnd } from '../host/program.js';
import { within } from '../host/within.js';
import { virshFailure, VirshMissing, VirshTimeout } from './errors.js';
import { echoOnBoth, printedMark, startFedVirsh } from './fed-virsh.js';

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
  const { ask, onStdout, onStderr } = said;
  const program = await startFedVirsh(connect, { onStdout, onStderr, signal });
  // It reads words as a shell does.
  program.tell(`create --autodestroy ${asShellWord(file)}\n${ask}`);
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
  const printed = printedMark(mark);
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
    ask: `${echoOnBoth(mark)}\n`,
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
