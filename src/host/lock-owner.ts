import { readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { printable } from '../core/printable.js';
import { codeOf } from './file-errors.js';
import { readProc } from './proc-text.js';

/**
 * Who holds a lock, and whether that process still lives. Read from /proc of Linux; a live owner is never taken for a
 * dead one, not even when it has been stopped for an hour.
 */
export interface LockOwner {
  /** What the run does, for people. */
  readonly what: string;
  readonly host: string;
  /** /etc/machine-id, so that two hosts of one name are told apart; empty where there is none. */
  readonly machineId: string;
  readonly bootId: string;
  readonly pid: number;
  readonly pidNamespace: string;
  /** Field 22 of /proc/<pid>/stat, in clock ticks since boot: a process that got the same pid later has another one. */
  readonly processStartTime: string;
  readonly command: string;
  /** ISO 8601. */
  readonly since: string;
  /** True where the lock is held for a look alone: who is to look, too, waits for its turn. */
  readonly looks?: unknown;
}

/** `elsewhere`: on another host or in another pid namespace, where nobody here can see whether it lives. */
export type Fate = 'alive' | 'dead' | 'elsewhere';

/** `hidden`: there is such a process, and this user may not look at it. */
export type ProcessState = { readonly startTime: string; readonly zombie: boolean } | 'hidden' | 'gone';

export function judgeOwner(
  owner: LockOwner,
  here: Omit<LockOwner, 'what' | 'since' | 'command'>,
  look: (pid: number) => ProcessState,
): Fate {
  if (owner.host !== here.host || owner.machineId !== here.machineId) return 'elsewhere';
  if (owner.bootId !== here.bootId) return 'dead';
  if (owner.pidNamespace !== here.pidNamespace) return 'elsewhere';
  return hasEnded(look(owner.pid), owner.processStartTime) ? 'dead' : 'alive';
}

/** Whether the process that had started at `startTime` is none any more, by what its pid is now. */
export function hasEnded(now: ProcessState, startTime: string): boolean {
  if (typeof now === 'string') return now === 'gone';
  return now.zombie || now.startTime !== startTime;
}

/** The state of a process on this host and in this pid namespace. */
export function inspectProcess(pid: number): ProcessState {
  const stat = readProc(`/proc/${pid}/stat`);
  if (stat === '') return exists(pid) ? 'hidden' : 'gone';
  // The command, in parentheses, may hold blanks and parentheses itself.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return { startTime: fields[19] ?? '', zombie: fields[0] === 'Z' || fields[0] === 'X' };
}

/** The record of this process. */
export function thisProcess(what: string): LockOwner {
  return recordOf(process.pid, what, process.argv.join(' '));
}

/** The record of a process that this one has started; `command`: what it is, or is about to be. */
export function recordOf(pid: number, what: string, command: string): LockOwner {
  const state = inspectProcess(pid);
  return {
    what,
    host: hostname(),
    machineId: readProc('/etc/machine-id').trim(),
    bootId: readProc('/proc/sys/kernel/random/boot_id').trim(),
    pid,
    pidNamespace: namespaceOfPids(),
    processStartTime: typeof state === 'string' ? '' : state.startTime,
    command: command.slice(0, 500),
    since: new Date().toISOString(),
  };
}

/** The record in `text`, or undefined when it is none. */
export function parseOwner(text: string): LockOwner | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    // A record cut short by a power failure: an owner that nobody can name.
    return undefined;
  }
  if (typeof value !== 'object' || value === null) return undefined;
  const { pid, ...rest } = value as Record<string, unknown>;
  const texts = TEXT_FIELDS.map((field) => rest[field]);
  const valid = Number.isInteger(pid) && (pid as number) > 0 && (pid as number) <= MAX_PID;
  return valid && texts.every((each) => typeof each === 'string') ? (value as LockOwner) : undefined;
}

/** The kernel's own limit. */
const MAX_PID = 2 ** 22;

const TEXT_FIELDS = [
  'what',
  'host',
  'machineId',
  'bootId',
  'pidNamespace',
  'processStartTime',
  'command',
  'since',
] as const;

/** For people; a record may come from anybody, so nothing in it reaches a terminal unchecked. */
export function describeOwner({ what, pid, host, since }: LockOwner): string {
  return `${shortened(what)} (pid ${pid} on ${shortened(host)}, since ${shortened(since)})`;
}

function shortened(text: string): string {
  return printable(text).slice(0, 200);
}

function namespaceOfPids(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return '';
    throw error;
  }
}

function exists(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return codeOf(error) !== 'ESRCH';
  }
}
