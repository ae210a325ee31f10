/**
 * Runs virsh: never through a shell, always with LC_ALL=C, each command with a deadline. Domains are addressed with
 * `--domain UUID`, since a name may look like an option, an id or another domain's UUID. A call takes some 20 ms of CPU to
 * start and hardly any to be answered: questions that are asked at once share one, and a run has one that stays for them.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { messageOf, QmpBackupError } from '../errors.js';
import { FIRST_FILE, type ProgramEnd, runProgram } from '../host/program.js';
import { batched } from './batch.js';
import { virshFailure, VirshKilled, VirshMissing, VirshTimeout } from './errors.js';
import { virshEnv } from './virsh-env.js';
import { type VirshSession, virshSession } from './virsh-session.js';

export interface VirshCall {
  /** Milliseconds; default what `createVirsh` was given. */
  readonly timeoutMs?: number | undefined;
  /** UUID (or, for the first look, name) of the domain that the command is about. */
  readonly domain?: string | undefined;
  /** XML documents, by the option that names their file: `{ '--backupxml': '<domainbackup>…' }`. */
  readonly documents?: Readonly<Record<string, string>> | undefined;
}

/**
 * Resolves to what virsh printed. Rejects with `VirshMissing`, `VirshTimeout`, `VirshKilled`, `LibvirtUnreachable`,
 * `DomainNotFound` or `VirshError`.
 */
export interface Virsh {
  (command: string, args?: readonly string[], call?: VirshCall): Promise<string>;
  /** Of the libvirt that it asks; absent where that is virsh's own default. */
  readonly uri?: string;
}

/** A command that must change a domain waits up to 30 s inside libvirtd while another job holds it. */
const DEADLINE_MS = 45_000;

/**
 * `uri` as for `virsh --connect`; without one virsh takes its own default. No command waits longer than `limitMs`, nor
 * than 45 s, unless its call says so.
 */
export function createVirsh(uri?: string, limitMs = DEADLINE_MS): Virsh {
  return virshAt(uri, limitMs, null);
}

/** One that has a virsh which stays, until it is closed. */
export function openVirsh(
  uri?: string,
  limitMs = DEADLINE_MS,
): { readonly virsh: Virsh; readonly close: () => Promise<void> } {
  const session = virshSession(connectTo(uri));
  return { virsh: virshAt(uri, limitMs, session), close: () => session.close() };
}

function connectTo(uri: string | undefined): readonly string[] {
  return uri === undefined ? [] : ['--connect', uri];
}

function virshAt(uri: string | undefined, limitMs: number, session: VirshSession | null): Virsh {
  const deadlineMs = Math.min(limitMs, DEADLINE_MS);
  const connect = connectTo(uri);

  const run = async (
    { command, domain, args }: Words,
    timeoutMs: number,
    files: readonly FileHandle[] = [],
  ): Promise<string> => {
    const words = [...connect, ...wordsOf({ command, domain, args })];
    const { exitCode, stdout, stderr } = await callVirsh(command, words, timeoutMs, files);
    if (exitCode !== 0) throw virshFailure({ command, domain, uri }, stderr);
    return stdout;
  };
  const alone = (question: Words): Promise<string> => run(question, deadlineMs);
  const inOneCall = async (questions: readonly Words[]): Promise<readonly (string | Promise<string>)[]> => {
    if (questions.length <= 1) return questions.map(alone);
    const mark = `end-${randomBytes(8).toString('hex')}`;
    const line = questions.map((each) => `${wordsOf(each).join(' ')}; echo ${mark}; `).join('');
    const { stdout, stderr } = await callVirsh(namesOf(questions), [...connect, line], deadlineMs);
    const answers = stdout.split(`${mark}\n`).slice(0, -1);
    if (stderr === '' && answers.length === questions.length) return answers;
    // virsh goes on after an error, and only its words tell of it: whose they are shows when each is asked by itself.
    return questions.map(alone);
  };
  const inSession = async (questions: readonly Words[]): Promise<readonly Promise<string>[] | null> => {
    const lines = questions.map((each) => wordsOf(each).join(' '));
    const answers = await session?.ask(lines, {
      timeoutMs: deadlineMs,
      late: () => new VirshTimeout(namesOf(questions), deadlineMs),
    });
    return (
      answers?.map(async (asked, index) => {
        const [answer, question] = [await asked, questions[index] as Words];
        if (answer === null) return alone(question);
        if ('printed' in answer) return answer.printed;
        throw virshFailure({ ...question, uri }, answer.complaint);
      }) ?? null
    );
  };
  const inOneCallOf = batched(MOST_AT_ONCE, inOneCall);
  const together = batched(MOST_AT_ONCE, async (questions: readonly Words[]) => {
    const apart = (question: Words): Promise<string> => (mayWait(question) ? alone(question) : inOneCallOf(question));
    return (await inSession(questions)) ?? questions.map(apart);
  });

  const ask: Virsh = (command, args = [], { domain, timeoutMs = deadlineMs, documents = {} } = {}) => {
    const plain = timeoutMs === deadlineMs && Object.keys(documents).length === 0;
    if (plain && isQuery(command, args) && wordsOf({ command, domain, args }).every(isPlainWord)) {
      return together({ command, domain, args });
    }
    return withDocuments(documents, (named, files) =>
      run({ command, domain, args: [...named, ...args] }, timeoutMs, files),
    );
  };
  return uri === undefined ? ask : Object.assign(ask, { uri });
}

interface Words {
  readonly command: string;
  readonly domain: string | undefined;
  readonly args: readonly string[];
}

function namesOf(questions: readonly Words[]): string {
  return questions.map(({ command }) => command).join(', ');
}

/** What changes nothing, so that it can be asked again. */
function isQuery(command: string, args: readonly string[]): boolean {
  return QUICK.has(command) || WAITING.has(command) || (command === 'blockjob' && args.includes('--info'));
}

/** For whoever is changing the domain, say. Nothing else shares a call with it, unless all is asked of one that stays. */
function mayWait({ command }: Words): boolean {
  return WAITING.has(command);
}

const QUICK: ReadonlySet<string> = new Set([
  'backup-dumpxml',
  'checkpoint-dumpxml',
  'checkpoint-list',
  'dominfo',
  'domjobinfo',
  'domstate',
  'dumpxml',
  'hostname',
  'list',
  'uri',
]);

const WAITING: ReadonlySet<string> = new Set(['domblkinfo', 'domcapabilities', 'domstats', 'version', 'vol-dumpxml']);

/** A line of virsh is one argument, and the kernel takes no longer one than 128 KiB. */
const MOST_AT_ONCE = 100;

function wordsOf({ command, domain, args }: Words): readonly string[] {
  return [command, ...(domain === undefined ? [] : ['--domain', domain]), ...args];
}

/** One that virsh cannot read otherwise than as it is where it parts a line into words. */
function isPlainWord(word: string): boolean {
  return /^[\w./-]+$/.test(word);
}

/** `files` are its descriptors from `FIRST_FILE` on. */
async function callVirsh(
  command: string,
  args: readonly string[],
  timeoutMs: number,
  files: readonly FileHandle[] = [],
): Promise<ProgramEnd> {
  const end = await runProgram('virsh', args, { timeoutMs, files, ownSession: true, env: virshEnv() });
  if (end.late) throw new VirshTimeout(command, timeoutMs);
  if (end.failure?.code === 'ENOENT') throw new VirshMissing(end.failure);
  if (end.failure !== null) throw end.failure;
  if (end.signal !== null) throw new VirshKilled(command, end.signal);
  return end;
}

/** virsh reads documents from files only; a pipe of node is a socket, which cannot be opened by name. */
async function withDocuments<T>(
  documents: Readonly<Record<string, string>>,
  use: (args: readonly string[], files: readonly FileHandle[]) => Promise<T>,
): Promise<T> {
  const files: FileHandle[] = [];
  try {
    const args: string[] = [];
    for (const [option, text] of Object.entries(documents)) {
      args.push(option, `/proc/self/fd/${FIRST_FILE + files.length}`);
      files.push(await nameless(text));
    }
    return await use(args, files);
  } finally {
    for (const file of files) await file.close();
  }
}

/** A file that no crash leaves behind: it has no name. */
async function nameless(text: string): Promise<FileHandle> {
  const path = join(tmpdir(), `qmpbackup-virsh-${randomBytes(8).toString('hex')}`);
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'wx+', 0o600);
    await unlink(path);
    await file.writeFile(text);
    return file;
  } catch (error) {
    await file?.close();
    throw new QmpBackupError('failed', `no temporary file can be made: ${messageOf(error)}`, {
      cause: error,
      hint: 'Set TMPDIR to a folder that this user can write to, with space left.',
    });
  }
}
