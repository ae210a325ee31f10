/**
 * Writes to a disk of a VM as its guest would, without a guest: through the guest device's own backend, so that
 * bitmaps, jobs and filters see them. HMP `qemu-io` reports only on QEMU's stdout: every call checks it there.
 */
import type { QmpClient } from '../../../src/qmp/client.js';
import { patient } from '../patience.js';
import { hmp } from './monitor.js';
import type { Output } from './output.js';

/** The parts of a VM that are needed here. */
export interface WritableVm {
  /** The test's way to the monitor; `human` is for a VM whose monitor somebody else holds. */
  readonly control: QmpClient | { readonly human: (commandLine: string) => Promise<string> };
  readonly stdout: Output;
  disk(id: string): { readonly hmpReference: string };
}

export interface Range {
  /** Bytes. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/** One command is one buffer in QEMU and holds up its main loop: longer ranges are cut. */
const MAX_BYTES = 64 * 1024 * 1024;
const DONE_MS = patient(60_000);

const inTurn = new WeakMap<Output, Promise<unknown>>();

/** Fills a range with one byte value (0 to 255). */
export async function write(vm: WritableVm, disk: string, range: Range & { readonly pattern: number }): Promise<void> {
  await pieces(range, (piece) => transfer(vm, disk, `write -P ${range.pattern} ${span(piece)}`, 'wrote', piece));
}

/** Fills a range with the bytes of a file, over and over. */
export async function writeFile(vm: WritableVm, disk: string, range: Range & { readonly file: string }): Promise<void> {
  await pieces(range, (piece) => transfer(vm, disk, `write -s ${range.file} ${span(piece)}`, 'wrote', piece));
}

/** Write zeroes: reads as zeros afterwards, whatever the format makes of it. */
export async function writeZeroes(vm: WritableVm, disk: string, range: Range): Promise<void> {
  await pieces(range, (piece) => transfer(vm, disk, `write -z ${span(piece)}`, 'wrote', piece));
}

/** Discard, which reaches the image because the lab opens disks with discard=unmap. */
export async function discard(vm: WritableVm, disk: string, range: Range): Promise<void> {
  await pieces(range, (piece) => transfer(vm, disk, `discard ${span(piece)}`, 'discard', piece));
}

/** Throws unless every byte of the range has this value. */
export async function expectPattern(
  vm: WritableVm,
  disk: string,
  range: Range & { readonly pattern: number },
): Promise<void> {
  if (!(await readsAs(vm, disk, range))) throw new Error(`${disk} at ${span(range)} is not all ${range.pattern}`);
}

/** Whether every byte of the range has this value. */
export async function readsAs(
  vm: WritableVm,
  disk: string,
  range: Range & { readonly pattern: number },
): Promise<boolean> {
  let same = true;
  await pieces(range, async (piece) => {
    const text = await transfer(vm, disk, `read -P ${range.pattern} ${span(piece)}`, 'read', piece);
    if (text.includes('Pattern verification failed')) same = false;
  });
  return same;
}

/** Flush: QEMU's cached metadata reaches the image file. Says nothing on success, so `length` marks its end. */
export async function flush(vm: WritableVm, disk: string): Promise<void> {
  await oneAtATime(vm, async () => {
    const start = vm.stdout.length;
    await qemuIo(vm, disk, 'flush');
    await qemuIo(vm, disk, 'length');
    const text = await vm.stdout.waitFor(start, (seen) => /\n$/.test(seen), DONE_MS);
    if (text.includes('failed') || text.trim().split('\n').length !== 1) throw new Error(`${disk}: flush: ${text}`);
  });
}

/**
 * Starts a write and returns at once: for writes that a job, a throttle or a hanging target holds up. `finished`
 * resolves when QEMU reports it, rejects when it failed. Wait for it before the next call on the same VM.
 */
export async function startWrite(
  vm: WritableVm,
  disk: string,
  range: Range & { readonly pattern: number; readonly deadlineMs?: number },
): Promise<{ readonly finished: Promise<void> }> {
  const start = vm.stdout.length;
  const command = `aio_write -P ${range.pattern} ${span(range)}`;
  await oneAtATime(vm, () => qemuIo(vm, disk, command));
  const finished = vm.stdout
    .waitFor(start, (seen) => outcome(seen, 'wrote', range) !== undefined, range.deadlineMs ?? DONE_MS)
    .then((text) => {
      if (outcome(text, 'wrote', range) === 'failed') throw new Error(`${disk}: ${command}: ${text}`);
    });
  finished.catch(() => undefined);
  return { finished };
}

function transfer(vm: WritableVm, disk: string, command: string, verb: string, range: Range): Promise<string> {
  return oneAtATime(vm, async () => {
    const start = vm.stdout.length;
    await qemuIo(vm, disk, command);
    const text = await vm.stdout.waitFor(start, (seen) => outcome(seen, verb, range) !== undefined, DONE_MS);
    if (outcome(text, verb, range) === 'failed') throw new Error(`${disk}: ${command}: ${text}`);
    return text;
  });
}

function outcome(text: string, verb: string, range: Range): 'done' | 'failed' | undefined {
  const [, then] = text.split(`${verb} ${range.length}/${range.length} bytes at offset ${range.offset}\n`);
  // The line behind it may come later, and would be taken for the answer to the next command.
  if (then !== undefined) return then.includes('\n') ? 'done' : undefined;
  // Usage and argument errors have no fixed wording; a full line that is no report of success is one.
  const complaint = text
    .split('\n')
    .slice(0, -1)
    .some((line) => /failed|error|invalid|cannot|can't|[Uu]sage/.test(line));
  return complaint && !/^Pattern verification failed/.test(text) ? 'failed' : undefined;
}

async function qemuIo(vm: WritableVm, disk: string, command: string): Promise<void> {
  // "Cannot find device" and permission conflicts come as the text of the reply.
  const line = `qemu-io ${vm.disk(disk).hmpReference} "${command}"`;
  const complaint = await ('human' in vm.control ? vm.control.human(line) : hmp(vm.control, line));
  if (complaint.trim() !== '') throw new Error(`${disk}: qemu-io ${command}: ${complaint.trim()}`);
}

/** Outcomes carry no name of a disk: two commands at once could not be told apart. */
function oneAtATime<T>(vm: WritableVm, task: () => Promise<T>): Promise<T> {
  const turn = (inTurn.get(vm.stdout) ?? Promise.resolve()).then(task);
  inTurn.set(
    vm.stdout,
    turn.catch(() => undefined),
  );
  return turn;
}

async function pieces(range: Range, each: (piece: Range) => Promise<unknown>): Promise<void> {
  for (let done = 0; done < range.length; done += MAX_BYTES) {
    await each({ offset: range.offset + done, length: Math.min(MAX_BYTES, range.length - done) });
  }
}

function span(range: Range): string {
  return `${range.offset} ${range.length}`;
}
