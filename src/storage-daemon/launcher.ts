import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { type FileHandle, open, readFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../errors.js';
import { fileError } from '../host/file-errors.js';
import { inspectProcess, hasEnded, type LockOwner, recordOf } from '../host/lock-owner.js';
import type { ProgramEnd } from '../host/program.js';
import { within } from '../host/within.js';
import { type DaemonOwner, WITH_PARENT } from './daemon.js';

/**
 * A process that starts daemons and then becomes another program by exec: they are that program's children from then on, so
 * that the kernel ends them with it, and nobody has to watch. Where that program is somebody else's child, it keeps the daemons
 * until that has left them. It is what its record says all the time. Until it is told either it ends with this process, whose
 * end closes its stdin.
 */
export interface Launcher extends DaemonOwner {
  /** Settles when it has ended, as itself or as what it became, with what it said. Never rejects. */
  readonly ended: Promise<string>;
  /** It becomes this script. */
  readonly become: (script: string) => void;
  /** Resolves when it keeps its daemons for the clients of this socket: until the last has left, or none has come for minutes. */
  readonly keep: (socket: string) => Promise<void>;
  /** Ends it, and the daemons with it. */
  readonly kill: () => Promise<void>;
  /** It goes on without us. */
  readonly leave: () => void;
}

/** Seconds without a client: before the first has come, and when the last has left. libvirt may take long to carry out a start. */
const [NONE_YET_S, NONE_LEFT_S] = [120, 3];

/**
 * Nobody else may talk to the sockets that are made. The pid of a daemon is told on stdout, and that it keeps them; all else goes
 * to the log. The kernel tells of every connection by the path that its server is bound to (03: connected), from whichever
 * process it comes; all of that path, which others may begin with. Who ends a group of processes does not mean a keeper: with it a guest would lose its disks.
 */
const PROGRAM = `
umask 077
connected() {
  path=$1 awk '
    $5 == "0001" && $6 == "03" { sub(/^([^ ]+ +){6}[^ ]+ /, ""); if ($0 == ENVIRON["path"]) { found = 1; exit } }
    END { exit !found }' /proc/net/unix
}
keep() {
  trap '' INT TERM HUP
  echo keeping
  exec </dev/null >&2
  idle=0 most=${NONE_YET_S}
  while [ "$idle" -lt "$most" ]; do
    sleep 1
    if connected "$1"; then idle=0 most=${NONE_LEFT_S}; else idle=$((idle + 1)); fi
  done
  exit 0
}
while read -r what rest; do
  case $what in
    daemon)
      read -r monitor
      setpriv --pdeathsig TERM sh -c '${WITH_PARENT}' $$ qemu-storage-daemon --chardev "$rest" --monitor chardev=own \
        --chardev "$monitor" --monitor chardev=monitor </dev/null >&2 &
      echo "$!" ;;
    become) exec sh "$rest" </dev/null >&2 ;;
    keep) keep "$rest" ;;
  esac
done`;

const KILL_MS = 10_000;
const POLL_MS = 50;
/** Bytes of the end of the log that an error quotes. */
const MAX_WORDS = 4000;

/** @param log where it, its daemons and what it becomes say what they say; begun anew */
export async function startLauncher(log: string, command: string): Promise<Launcher> {
  const file = await openLog(log);
  const child = spawn('sh', ['-c', PROGRAM], {
    // In a session of its own: a Ctrl-C is for us.
    ...{ detached: true, stdio: ['pipe', 'pipe', file.fd], env: { ...process.env, LC_ALL: 'C' } },
  });
  const pids: number[] = [];
  let daemons = 0;
  let [isLeft, isOver] = [false, false];
  const keeping = new Promise<void>((resolve) => {
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      const lines = text.split('\n').filter(Boolean);
      pids.push(...lines.filter((line) => /^\d+$/.test(line)).map(Number));
      if (lines.includes('keeping')) resolve();
    });
  });
  // What it does not read is told by its end.
  child.stdin?.on('error', () => undefined);
  let failure: Error | null = null;
  const exited = new Promise<void>((resolve) => {
    child.once('exit', () => resolve());
    child.once('error', (error) => {
      failure = error;
      resolve();
    });
  });
  void exited.then(() => (isOver = true));
  await file.close();
  const ended = exited.then(async () => failure?.message ?? (await wordsIn(log)));
  const pid = child.pid ?? 0;
  const tell = (line: string): void => void child.stdin?.write(`${line}\n`);
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL');
    await within(KILL_MS, exited);
  };
  return {
    record: (what): LockOwner => recordOf(pid, what, command),
    ended,
    become: (script) => tell(`become ${script}`),
    keep: async (socket) => {
      tell(`keep ${socket}`);
      await Promise.race([keeping, ended.then((words) => Promise.reject(new Error(words)))]);
    },
    kill,
    leave: () => {
      isLeft = true;
      child.unref();
      for (const pipe of [child.stdin, child.stdout]) if (pipe instanceof Socket) pipe.destroy();
    },
    launch: ({ own, monitor }) => {
      const index = daemons;
      daemons += 1;
      tell(`daemon ${own}\n${monitor}`);
      return {
        // It is told before the daemon answers.
        get pid() {
          return pids[index] ?? 0;
        },
        stderr: () => '',
        ended: Promise.race([
          exited,
          gone(
            () => pids[index],
            () => isLeft || isOver,
          ),
        ]).then(() => endOf(log)),
        kill,
      };
    },
  };
}

/** When the process has ended whose pid is told later; never once nobody asks any more. */
async function gone(pidOf: () => number | undefined, isLeft: () => boolean): Promise<void> {
  let startTime: string | undefined;
  for (;;) {
    const pid = pidOf();
    const state = pid === undefined ? 'hidden' : inspectProcess(pid);
    if (typeof state !== 'string') startTime ??= state.startTime;
    if (pid !== undefined && hasEnded(state, startTime ?? '')) return;
    if (isLeft()) return new Promise(() => undefined);
    await sleep(POLL_MS);
  }
}

async function endOf(log: string): Promise<ProgramEnd> {
  return { exitCode: 1, signal: null, stdout: '', stderr: await wordsIn(log), failure: null };
}

async function openLog(path: string): Promise<FileHandle> {
  try {
    const { O_WRONLY, O_CREAT, O_TRUNC, O_APPEND, O_NOFOLLOW } = constants;
    return await open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NOFOLLOW, 0o600);
  } catch (error) {
    throw fileError('write', path, error);
  }
}

/** The end of what was said. */
async function wordsIn(log: string): Promise<string> {
  const text = await readFile(log, 'utf8').catch((error: unknown) => `${log} cannot be read: ${messageOf(error)}`);
  return text.slice(-MAX_WORDS).trim();
}
