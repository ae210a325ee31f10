import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BlockNodeSpec, nameOfNode } from '../core/block-node.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { isThere } from '../host/is-there.js';
import { runProgram } from '../host/program.js';
import { readHeader } from './examine.js';
import { viewOf } from './image-view.js';
import { runShort } from './runner.js';

/**
 * Whether a QEMU has the qcow2 image at `path` open for writing, by the locks that it puts on its images. Where locks do
 * not work the answer is false, as for a file that is no image or names another one: that is not opened.
 *
 * @throws QmpBackupError `failed` when the file cannot be looked at for another reason
 */
export async function isBeingWritten(path: string): Promise<boolean> {
  try {
    const { dataFile } = await readHeader(path, basename(path));
    if (dataFile) return false;
    await runShort(['info', viewOf([path])]);
    return false;
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    if (error.code === 'damaged' || error.code === 'unsafe') return false;
    if (/Failed to get .*lock/.test(messageOf(error))) return true;
    throw error;
  }
}

/** Milliseconds that a process which is ending may take to let go of its images. */
const CLOSING_MS = 5_000;

/** Whether no QEMU has any of these qcow2 images open for writing, or soon none has. */
export async function haveBeenClosed(paths: readonly string[]): Promise<boolean> {
  for (const until = performance.now() + CLOSING_MS; ; await sleep(100)) {
    if (!(await anyIsBeingWritten(paths))) return true;
    if (performance.now() > until) return false;
  }
}

async function anyIsBeingWritten(paths: readonly string[]): Promise<boolean> {
  for (const path of paths) if ((await isThere(path)) && (await isBeingWritten(path))) return true;
  return false;
}

const OPEN_MS = 60_000;

/**
 * Opens a file or device for writing as qemu-img will, and writes nothing: `qemu-img info` asks for no lock that a raw image
 * has.
 *
 * @throws QmpBackupError `unsafe` where a QEMU has it open, or it cannot be opened
 */
export async function refuseInUse(path: string, node: BlockNodeSpec): Promise<void> {
  const name = nameOfNode({ driver: 'raw', file: node });
  const { exitCode, stderr, failure } = await runProgram('qemu-io', ['-c', 'quit', name], { timeoutMs: OPEN_MS });
  if (exitCode === 0) return;
  const words = failure?.message ?? stderr.replace(/^qemu-io: can't open device json:\{.*?\}: /, '').trim();
  const isInUse = /Failed to get .*lock/.test(words);
  throw new QmpBackupError('unsafe', `${path} is not written to: ${isInUse ? 'a QEMU has it open' : words}`, {
    hint: isInUse ? 'Shut down the VM that has it first.' : 'Choose another place.',
  });
}
