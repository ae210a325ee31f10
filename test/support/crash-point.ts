import { execa } from 'execa';
import { PROGRAM } from './cli.js';

/**
 * Ends the program under test by SIGKILL at an exact step of its own: just before or just after a call to the file
 * system or a message to QEMU. A small module that node loads first watches the program's calls.
 */
export interface CrashPoint {
  readonly when: 'before' | 'after';
  /** A function of node:fs/promises, or `send`: a message that is written to a socket. */
  readonly call: 'mkdir' | 'open' | 'rename' | 'rm' | 'unlink' | 'send';
  /** Matches the paths that are given to the function, one a line, or the text of the message. */
  readonly matches: RegExp;
}

/** Runs the program and expects that it died at `point`. */
export async function crashCli(point: CrashPoint, args: readonly string[]): Promise<void> {
  const watched = { when: point.when, call: point.call, matches: point.matches.source };
  const module = `data:text/javascript,${encodeURIComponent(`const point = ${JSON.stringify(watched)};${PRELOAD}`)}`;
  const result = await execa(process.execPath, ['--import', module, PROGRAM, ...args], {
    reject: false,
    timeout: 120_000,
    env: { NO_COLOR: '1' },
  });
  if (result.signal === 'SIGKILL' && !result.timedOut) return;
  const name = `${point.when} ${point.call} ${point.matches.source}`;
  throw new Error(`it did not come to this: ${name}, but ended with ${result.exitCode}\n${result.stderr}`);
}

const PRELOAD = `
import files from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { Socket } from 'node:net';
const pattern = new RegExp(point.matches);
const die = () => process.kill(process.pid, 'SIGKILL');
if (point.call === 'send') {
  const write = Socket.prototype.write;
  Socket.prototype.write = function (chunk, ...rest) {
    const hit = pattern.test(String(chunk));
    if (hit && point.when === 'before') die();
    const more = write.call(this, chunk, ...rest);
    if (hit) die();
    return more;
  };
} else {
  const call = files[point.call];
  files[point.call] = async (...args) => {
    const hit = pattern.test(args.filter((each) => typeof each === 'string').join('\\n'));
    if (hit && point.when === 'before') die();
    const result = await call(...args);
    if (hit) die();
    return result;
  };
  syncBuiltinESMExports();
}
`;
