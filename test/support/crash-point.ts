import { execa } from 'execa';
import { PROGRAM } from './cli.js';
import { patient } from './patience.js';

/**
 * Ends the program under test by SIGKILL at an exact step of its own: just before or just after a call to the file
 * system or a message to QEMU; or stops another process there. A small module that node loads first watches the program's calls.
 */
export interface CrashPoint {
  readonly when: 'before' | 'after';
  /**
   * A function of node:fs/promises; `send`: a message that is written to a socket; `spawn`: a program, known by its
   * name and arguments with blanks between them, which has ended `after`.
   */
  readonly call: 'mkdir' | 'open' | 'rename' | 'rm' | 'unlink' | 'send' | 'spawn';
  /** Matches the paths that are given to the function, one a line, or the text of the message. */
  readonly matches: RegExp;
  /** Which of the calls that match; 1, the first, unless told. */
  readonly nth?: number;
  /** What becomes of its guards, which are in groups of their own: they do their work, or die with it. */
  readonly guards?: 'act' | 'die';
  /** Pid of a process that is stopped (SIGSTOP) in its place, as one that serves a file system, which then hangs. */
  readonly stops?: number;
}

/**
 * For node, before the program: it then dies at `point`, with every process of its group, since a run may have two of
 * them. So it has to be started in a group of its own (`detached`).
 */
export function crashArguments({ when, call, matches, nth = 1, guards = 'act', stops }: CrashPoint): string[] {
  const point = JSON.stringify({ when, call, matches: matches.source, nth, guards, stops });
  return ['--import', `data:text/javascript,${encodeURIComponent(`const point = ${point};${PRELOAD}`)}`];
}

/** Runs the program and expects that it died at `point`; resolves to its pid. */
export async function crashCli(point: CrashPoint, args: readonly string[]): Promise<number> {
  const child = execa(process.execPath, [...crashArguments(point), PROGRAM, ...args], {
    reject: false,
    detached: true,
    // It may be a whole disk.
    stdout: 'ignore',
    timeout: patient(120_000),
    env: { NO_COLOR: '1' },
  });
  const result = await child;
  if (result.signal === 'SIGKILL' && !result.timedOut && child.pid !== undefined) return child.pid;
  const name = `${point.when} ${point.call} ${point.matches.source}`;
  throw new Error(`it did not come to this: ${name}, but ended with ${result.exitCode}\n${result.stderr}`);
}

const PRELOAD = `
import programs from 'node:child_process';
import files from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { Socket } from 'node:net';
const pattern = new RegExp(point.matches);
let matched = 0;
const isIt = (text) => pattern.test(text) && ++matched === point.nth;
const guards = [];
const die = () => {
  if (point.stops) return process.kill(point.stops, 'SIGSTOP');
  for (const guard of guards) guard.kill('SIGKILL');
  process.kill(0, 'SIGKILL');
};
if (point.guards === 'die') {
  const spawn = programs.spawn;
  programs.spawn = (name, args, options) => {
    const child = spawn(name, args, options);
    if (/guard-main/.test(args.join(' '))) guards.push(child);
    return child;
  };
  syncBuiltinESMExports();
}
if (point.call === 'send') {
  const write = Socket.prototype.write;
  Socket.prototype.write = function (chunk, ...rest) {
    const hit = isIt(String(chunk));
    if (hit && point.when === 'before') die();
    const more = write.call(this, chunk, ...rest);
    if (hit) die();
    return more;
  };
} else if (point.call === 'spawn') {
  const spawn = programs.spawn;
  programs.spawn = (name, args, options) => {
    const hit = isIt([name, ...args].join(' '));
    if (hit && point.when === 'before') die();
    const child = spawn(name, args, options);
    if (hit) child.prependListener('exit', die);
    return child;
  };
  syncBuiltinESMExports();
} else {
  const call = files[point.call];
  files[point.call] = async (...args) => {
    const hit = isIt(args.filter((each) => typeof each === 'string').join('\\n'));
    if (hit && point.when === 'before') die();
    const result = await call(...args);
    if (hit) die();
    return result;
  };
  syncBuiltinESMExports();
}
`;
