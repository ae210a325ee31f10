/**
 * One virsh that stays for a run and is fed questions: each is answered in a millisecond or two, where a virsh of its own
 * takes 20 ms of CPU to start. Only what changes nothing is asked of it, and nothing depends on it: what it does not plainly
 * answer is asked again by a virsh of its own, whose exit code and words count (docs/decisions/0001).
 */
import { randomBytes } from 'node:crypto';
import type { Program } from '../host/program.js';
import { within } from '../host/within.js';
import { echoOnBoth, printedMark, startFedVirsh } from './fed-virsh.js';

/** What a question came to: what virsh printed, or its words on stderr alone; null where that is not plain. */
export type SessionAnswer = { readonly printed: string } | { readonly complaint: string } | null;

export interface VirshSession {
  /** Lines of virsh, to be answered in time. Null where it is gone, or busy with what takes long: nobody waits for that. */
  ask(questions: readonly string[], options: SessionOptions): Promise<readonly Promise<SessionAnswer>[] | null>;
  close(): Promise<void>;
}

interface SessionOptions {
  readonly timeoutMs: number;
  /** What a question is rejected with that has no answer by then. */
  readonly late: () => Error;
}

interface Asked {
  readonly mark: string;
  readonly resolve: (answer: SessionAnswer) => void;
  readonly late: () => void;
}

/** Milliseconds that a question waits for those before it; a virsh of its own would have started by then. */
const BUSY_MS = 50;

/** Starts with the first question. `connect`: arguments of virsh. */
export function virshSession(connect: readonly string[]): VirshSession {
  const secret = randomBytes(8).toString('hex');
  let program: Promise<Program> | undefined;
  let gone = false;
  let count = 0;
  let waiting: readonly Asked[] = [];
  let timer: NodeJS.Timeout | undefined;
  let [stdout, stderr] = ['', ''];
  let idle: () => void = () => undefined;
  let answered = Promise.resolve();

  const leave = (settle: (asked: Asked) => void): Promise<void> => {
    gone = true;
    clearTimeout(timer);
    waiting.forEach(settle);
    waiting = [];
    idle();
    return program?.then(({ kill }) => kill()) ?? Promise.resolve();
  };
  const hear = (): void => {
    for (let [first] = waiting; first; [first] = waiting) {
      const passed = first.mark + PASSED;
      const [out, err] = [stdout.indexOf(passed), stderr.indexOf(passed)];
      if (out < 0 || err < 0) return;
      const [printed, complained] = [stdout.slice(0, out), stderr.slice(0, err)];
      if (OF_CONNECTION.test(complained)) return void leave(({ resolve }) => resolve(null));
      [stdout, stderr] = [stdout.slice(out + passed.length), stderr.slice(err + passed.length)];
      waiting = waiting.slice(1);
      first.resolve(answerIn(printed, complained, first.mark));
    }
    clearTimeout(timer);
    idle();
  };
  const start = async (): Promise<Program> => {
    const started = await startFedVirsh(connect, {
      onStdout: (text) => {
        stdout += text;
        hear();
      },
      onStderr: (text) => {
        stderr += text;
        hear();
      },
    });
    void started.ended.then(() => leave(({ resolve }) => resolve(null)));
    return started;
  };

  return {
    ask: async (questions, { timeoutMs, late }) => {
      for (const until = performance.now() + BUSY_MS; !gone && waiting.length > 0;) {
        const left = until - performance.now();
        if (left <= 0) return null;
        await within(left, answered);
      }
      if (gone) return null;
      program ??= start();
      answered = new Promise((resolve) => (idle = resolve));
      const lines: string[] = [];
      const answers = questions.map((question) => {
        const name = `${secret}.${count++}`;
        lines.push(`${echoOnBoth(name + BEGUN)}; ${question}; ${echoOnBoth(name + ENDED)}`, echoOnBoth(name + PASSED));
        return new Promise<SessionAnswer>((resolve, reject) => {
          const asked = { mark: printedMark(name), resolve, late: () => reject(late()) };
          waiting = [...waiting, asked];
        });
      });
      timer = setTimeout(() => void leave((asked) => asked.late()), timeoutMs);
      (await program).tell(`${lines.join('\n')}\n`);
      return answers;
    },
    close: () => leave(({ resolve }) => resolve(null)),
  };
}

/** A virsh that stays has words of its own for a connection that was lost, at any moment: it is not asked again. */
const OF_CONNECTION = /connect|socket|keepalive|recv|end of file/i;

const BEGUN = '.begun.';
const ENDED = '.ended.';
/** Comes also where virsh could not read the line before, and said nothing of its marks. */
const PASSED = '.passed.';

function answerIn(stdout: string, stderr: string, mark: string): SessionAnswer {
  const [printed, complaint] = [marked(stdout, mark), marked(stderr, mark)];
  if (printed === null || complaint === null) return null;
  // The mark itself comes as an error.
  const words = complaint.replace(/error: $/, '').trim();
  if (words === '') return { printed };
  // Beside an answer nobody knows what they mean.
  return printed.trim() === '' ? { complaint: words } : null;
}

function marked(text: string, mark: string): string | null {
  const [begin, end] = [text.indexOf(mark + BEGUN), text.indexOf(mark + ENDED)];
  return begin < 0 || end < begin ? null : text.slice(begin + mark.length + BEGUN.length, end);
}
