import { randomBytes } from 'node:crypto';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf } from '../host/file-errors.js';
import { readProc } from '../host/proc-text.js';
import { type Program, startProgram } from '../host/program.js';
import { within } from '../host/within.js';

/** One session of guestfish: one start of its appliance, whatever is asked. */
export interface GuestfishSession {
  /** What a command prints. @throws QmpBackupError `failed` in guestfish's words */
  readonly ask: (...words: readonly string[]) => Promise<string>;
  /** The same of a command that takes as long as somebody takes what it gives. */
  readonly give: (...words: readonly string[]) => Promise<string>;
  readonly close: () => Promise<void>;
}

/** A raw file that is a disk to the appliance. */
export interface GuestDisk {
  readonly path: string;
  /** Bytes of its sectors, in which the kernel reads its partition table. */
  readonly sector: number;
}

export interface GuestfishOptions {
  /** In the order of `/dev/sda`, `/dev/sdb`, … Nothing is written to them. */
  readonly images: readonly GuestDisk[];
  /** For what it makes for itself. */
  readonly folder: string;
  readonly signal: AbortSignal;
}

/** Without KVM, on a busy machine. */
const START_MS = 900_000;
const COMMAND_MS = 600_000;
const CLOSE_MS = 20_000;
const MAX_WORDS = 2_000;

/** @throws QmpBackupError `failed` where guestfish is missing, or its appliance does not start */
export async function startGuestfish({ images, folder, signal }: GuestfishOptions): Promise<GuestfishSession> {
  let pending = '';
  let heard = (): void => undefined;
  const drives = images.flatMap(({ path, sector }) => [`--blocksize=${sector}`, '--add', path]);
  const program = await startProgram('guestfish', ['--ro', '--format=raw', ...drives], {
    ...{ stdin: 'pipe', ownSession: true },
    // A backend of its own: libvirt, which may be the default, would need rights to the files.
    env: { LIBGUESTFS_BACKEND: 'direct', ...process.env, LC_ALL: 'C', TMPDIR: folder, LIBGUESTFS_TMPDIR: folder },
    onStdout: (text) => {
      pending += text;
      heard();
    },
  });
  const ask = async (ms: number | null, words: readonly string[]): Promise<string> => {
    const mark = `-- ${randomBytes(12).toString('hex')}`;
    pending = '';
    const answered = new Promise<string>((resolve) => {
      heard = () => {
        const end = pending.indexOf(`${mark}\n`);
        if (end >= 0) resolve(pending.slice(0, end));
      };
    });
    program.tell(`${words.map(quoted).join(' ')}\necho ${quoted(mark)}\n`);
    const ended = program.ended.then(() => null);
    const told = Promise.race([answered, ended]);
    const answer = ms === null ? await told : await within(ms, told);
    if (typeof answer === 'string') return answer;
    signal.throwIfAborted();
    throw await failureOf(program, answer === undefined ? `no answer within ${Number(ms) / 1000} s` : null);
  };
  const abort = (): void => endAppliance(program.pid);
  signal.addEventListener('abort', abort, { once: true });
  const close = async (): Promise<void> => {
    signal.removeEventListener('abort', abort);
    program.tell('exit\n');
    if ((await within(CLOSE_MS, program.ended)) === undefined) await program.kill();
  };
  try {
    await ask(START_MS, ['run']);
  } catch (error) {
    await close();
    throw error;
  }
  return { ask: (...words) => ask(COMMAND_MS, words), give: (...words) => ask(null, words), close };
}

/**
 * guestfish takes away what it has made for itself, in /tmp for root, when it ends by itself: not when it is killed, but where
 * what it waits for fails. That is what it has started, its QEMU or supermin; the other of its own name guards that one.
 */
function endAppliance(guestfish: number): void {
  for (const pid of readProc(`/proc/${guestfish}/task/${guestfish}/children`).split(' ')) {
    if (pid === '' || readProc(`/proc/${pid}/comm`).startsWith('guestfish')) continue;
    try {
      process.kill(Number(pid), 'SIGTERM');
    } catch (error) {
      // It has ended just now.
      if (codeOf(error) !== 'ESRCH') throw error;
    }
  }
}

/** guestfish's own quoting. */
function quoted(word: string): string {
  if (/^[\w/.:-]+$/.test(word)) return word;
  const escaped = word
    .replace(/["\\]/g, '\\$&')
    .replaceAll('\n', '\\n')
    .replaceAll('\t', '\\t')
    .replaceAll('\r', '\\r');
  return `"${escaped}"`;
}

async function failureOf(program: Program, late: string | null): Promise<QmpBackupError> {
  const failure = late === null ? (await program.ended).failure : null;
  if (failure?.code === 'ENOENT') {
    return new QmpBackupError('failed', 'libguestfs is not here: there is no program guestfish', {
      hint: 'Install it: apt install libguestfs-tools',
    });
  }
  const first = program
    .stderr()
    .replace(/^\*stdin\*:\d+: libguestfs: error: /gm, '')
    .trim()
    .slice(0, MAX_WORDS);
  const words = late ?? (failure ? messageOf(failure) : first.split('\nDo:')[0] || 'it ended');
  return new QmpBackupError('failed', `guestfish: ${words.replace(/\s*\n\s*/g, '; ')}`, {
    hint: 'libguestfs-test-tool shows what its appliance lacks: a kernel in /boot that this user may read; without KVM, LIBGUESTFS_BACKEND_SETTINGS=force_tcg',
  });
}
