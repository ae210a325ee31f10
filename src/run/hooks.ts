import type { HookCommand, HookName, Hooks } from '../config/hooks.js';
import { messageOf } from '../errors.js';
import { startProgram } from '../host/program.js';

/** Runs a hook: a command of the administrator, with what it is told in its environment and on its stdin. */
export interface HookAsked {
  readonly hook: HookName;
  readonly hooks: Hooks;
  readonly facts: HookFacts;
  /** All that is known, as JSON on its stdin. */
  readonly input: unknown;
  readonly signal: AbortSignal;
  /** Each line that it prints. */
  readonly onLine: (text: string) => void;
}

/** What it finds in its environment, as `QMPBACKUP_…`; what is null is empty there. */
export interface HookFacts {
  /** Absolute path of the configuration. */
  readonly config: string;
  /** Null for the run as a whole. */
  readonly vm: string | null;
  readonly target: string | null;
  /** Null before it is known. */
  readonly result: string | null;
  /** What failed, in words. */
  readonly why: string | null;
}

export type HookEnd =
  | { readonly kind: 'done'; readonly exitCode: 0 }
  /** `before` says that there is nothing to be done now. */
  | { readonly kind: 'skip'; readonly why: string; readonly exitCode: number }
  /** 1 where it was not started, or was ended. */
  | { readonly kind: 'failed'; readonly why: string; readonly exitCode: number };

/** EX_TEMPFAIL of sysexits.h. */
const SKIP = 75;
/** How long a hook that tidies up may take after the program was told to end, and one that was told to end itself. Milliseconds. */
const [LAST_MS, TERM_MS] = [30_000, 5_000];
/** How long after its deadline a hook is ended by `timeout` of coreutils, should we not be there any more to do so. Milliseconds. */
const GUARD_MS = 10_000;

/** Null where there is none. Never rejects. */
export async function runHook(asked: HookAsked): Promise<HookEnd | null> {
  const { hook, hooks, facts, input, signal, onLine } = asked;
  const command = hooks[hook];
  if (command === null) return null;
  const output = lines(onLine);
  const [program, args] = wordsOf(command);
  const running = await startProgram('timeout', [...guardWords(hooks), program, ...args], {
    ...{
      env: { ...process.env, ...environment({ hook, ...facts }) },
      stdin: { text: `${JSON.stringify({ schema: 1, hook, ...facts, ...Object(input) })}\n` },
    },
    ...{ ownGroup: true, termMs: TERM_MS, onStdout: output.take, onStderr: output.take },
  });
  const stopped: { ending: Promise<void> | null; why: string } = { ending: null, why: '' };
  const end = (reason: string): void => {
    stopped.why ||= reason;
    stopped.ending ??= running.kill();
  };
  const late = `it did not end within ${hooks.timeoutMs / 1000} s, or something that it has started holds its output`;
  const timers = [setTimeout(() => end(late), hooks.timeoutMs)];
  const onAbort = (): void => {
    // What `before` begins is of no use any more; what the others tidy up is.
    if (hook === 'before') end('the run was ended');
    else timers.push(setTimeout(() => end('the run was ended'), LAST_MS));
  };
  if (signal.aborted) onAbort();
  else signal.addEventListener('abort', onAbort, { once: true });
  const { exitCode, signal: by, failure } = await running.ended;
  timers.forEach(clearTimeout);
  signal.removeEventListener('abort', onAbort);
  await stopped.ending;
  output.end();
  if (stopped.why !== '') return { kind: 'failed', why: stopped.why, exitCode: 1 };
  if (failure) {
    const words = by === null ? 'could not be started' : 'was ended';
    return { kind: 'failed', why: `${program} ${words}: ${messageOf(failure)}`, exitCode: 1 };
  }
  if (exitCode === 0) return { kind: 'done', exitCode };
  const last = output.last();
  if (NOT_STARTED.includes(exitCode ?? 0) && last.startsWith('timeout: ')) {
    return { kind: 'failed', why: `${program} could not be started: ${last.slice('timeout: '.length)}`, exitCode: 1 };
  }
  if (hook === 'before' && exitCode === SKIP) return { kind: 'skip', why: last || 'the hook said so', exitCode };
  const words = `exit code ${exitCode ?? by}${last === '' ? '' : `: ${last}`}`;
  return { kind: 'failed', why: words, exitCode: exitCode ?? 1 };
}

/** Of `timeout`, which ends as what it runs ends, in the group of the hook. */
function guardWords({ timeoutMs }: Hooks): readonly string[] {
  return [`--kill-after=${TERM_MS / 1000}`, `${(timeoutMs + GUARD_MS) / 1000}`];
}

/** Exit codes by which `timeout` says that it could not start a program. */
const NOT_STARTED = [125, 126, 127];

function wordsOf(command: HookCommand): readonly [string, readonly string[]] {
  if (typeof command === 'string') return ['/bin/sh', ['-c', command]];
  const [program = '', ...args] = command;
  return [program, args];
}

/** What a hook is, in words. */
export function hookText(command: HookCommand): string {
  return typeof command === 'string' ? command : command.join(' ');
}

/** Characters of a value there; Linux starts no program with one of more than 128 KiB. All of it is on its stdin. */
const LONGEST_VALUE = 8_000;

function environment(facts: HookFacts & { readonly hook: HookName }): Readonly<Record<string, string>> {
  const named = Object.entries<string | null>({ ...facts }).map(([key, value]) => [
    `QMPBACKUP_${key.toUpperCase()}`,
    valueOf(value ?? ''),
  ]);
  return Object.fromEntries(named) as Record<string, string>;
}

/** What a program has said may have anything in it. */
function valueOf(text: string): string {
  const whole = text.replaceAll('\0', '?');
  return whole.length > LONGEST_VALUE ? `${whole.slice(0, LONGEST_VALUE)} ...` : whole;
}

/** Characters of a line that are told, and lines. */
const [LONGEST_LINE, MOST_LINES] = [2_000, 1_000];

interface Lines {
  readonly take: (text: string) => void;
  readonly end: () => void;
  /** The last one that says something. */
  readonly last: () => string;
}

function lines(onLine: (text: string) => void): Lines {
  let [rest, last, count] = ['', '', 0];
  const tell = (line: string): void => {
    const text = line.trimEnd().slice(0, LONGEST_LINE);
    if (text === '') return;
    last = text;
    count += 1;
    if (count <= MOST_LINES) onLine(text);
    else if (count === MOST_LINES + 1) onLine(`it prints more than ${MOST_LINES} lines: the others are not told`);
  };
  return {
    take: (text) => {
      const found = (rest + text).split('\n');
      rest = (found.pop() ?? '').slice(-LONGEST_LINE);
      found.forEach(tell);
    },
    end: () => {
      tell(rest);
      rest = '';
    },
    last: () => last,
  };
}
