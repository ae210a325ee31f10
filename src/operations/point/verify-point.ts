import { basename, dirname, join } from 'node:path';
import type { Journal } from '../../domain/catalog.js';
import { lineOf } from '../../domain/chain.js';
import { exportName } from '../../domain/names.js';
import type { PlannedDisk } from '../../domain/plan.js';
import { type NbdSource, nbdNode } from '../../domain/nbd-address.js';
import { sampleWindows, type Window } from '../../domain/sample-windows.js';
import { QmpBackupError } from '../../errors.js';
import { nameOfNode, nodeOf, readInFull, windowOf } from '../../qemu-img/image-view.js';
import { compare } from '../../qemu-img/steps.js';
import { exportNode, startNbdServer } from '../../qemu/nbd-export.js';
import type { TransactionDisk } from '../../qemu/transaction.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { writeJournal } from '../../repository/journal-file.js';
import type { BackupRun } from './backup-run.js';
import type { Planned } from './plan-run.js';
import type { StagedImage } from './seal-point.js';
import type { QmpPlan, QmpRun } from '../by-monitor/qmp-run.js';

/**
 * Proves a point before it is sealed: the frozen instant, which fleecing still holds, is exported read-only over NBD on
 * a unix socket and compared with the new image and all that it builds on, while the guest goes on. What was exported
 * is taken away with the rest of fleecing.
 */
export async function verifyPoint(
  run: QmpRun,
  planned: QmpPlan,
  staged: readonly TransactionDisk[],
  /** Says that the run serves NBD. */
  journal: Journal,
): Promise<void> {
  const fleeced = staged.filter(({ fleece }) => fleece !== null);
  const [first] = fleeced;
  if (!first?.fleece) return;
  const socket = join(dirname(first.fleece.scratch), 'nbd.sock');
  refuseLongPath(socket);
  await writeJournal(run.target, journal);
  await serve(run, socket, journal);
  for (const [index, disk] of fleeced.entries()) await verifyDisk(run, planned, disk, { socket, index });
  for (const { planned: missed } of staged.filter(({ fleece }) => fleece === null)) {
    run.warn(`${missed.disk} was not verified: no guest device has it open, so it was not fleeced`);
  }
}

async function serve(run: QmpRun, socket: string, journal: Journal): Promise<void> {
  try {
    await startNbdServer(run.session.client, socket);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    // It is somebody else's: no repair of ours may stop it.
    await writeJournal(run.target, { ...journal, servesNbd: false });
    throw new QmpBackupError('failed', `--verify: QEMU could not serve the frozen instant: ${error.desc}`, {
      cause: error,
      hint: 'QEMU has one NBD server. If another program uses it, take the backup without --verify.',
    });
  }
}

async function verifyDisk(
  run: QmpRun,
  planned: QmpPlan,
  disk: TransactionDisk,
  { socket, index }: { readonly socket: string; readonly index: number },
): Promise<void> {
  const name = exportName(run.attempt, index);
  await exportNode(run.session.client, disk.fleece?.nodes.snapshot ?? '', name);
  await compareWithInstant(run, planned, disk, { address: { kind: 'unix', path: socket }, exportName: name });
}

/** Compares a new image, with all that it builds on, with the frozen instant of its disk. Throws where they differ. */
export async function compareWithInstant(
  run: BackupRun,
  planned: Planned,
  { planned: disk, path }: StagedImage,
  source: NbdSource,
): Promise<void> {
  const windows = run.options.verify === 'sample' ? sampleWindows(disk.source.virtualSize, Math.random) : null;
  run.context.report({ kind: 'verifying', disk: disk.disk, share: shareText(windows) });
  const instant = readInFull(nbdNode(source));
  const image = readInFull(nodeOf([...filesBelow(planned, disk), basename(path)]));
  const pairs = windows?.map((window) => [windowOf(instant, window), windowOf(image, window)] as const);
  for (const [a, b] of pairs ?? [[instant, image] as const]) {
    const options = { cwd: dirname(path), signal: run.signal };
    if (await compare(nameOfNode(a), nameOfNode(b), options)) continue;
    throw new QmpBackupError('failed', `--verify: the backup of ${disk.disk} differs from the disk`, {
      hint: disk.parent
        ? 'The point was not kept. Take a full backup (--level full): the chain may miss a change.'
        : 'The point was not kept. Check the storage of the target and of the disk.',
    });
  }
}

/** What the new image builds on, FULL first. */
function filesBelow({ catalog }: Planned, { parent, file }: PlannedDisk): readonly string[] {
  if (!catalog || !parent) return [];
  const line = lineOf(catalog, parent);
  if ('missing' in line)
    throw new QmpBackupError('failed', `--verify: ${line.missing}, which ${file} needs, is missing`);
  return line.files.map((each) => each.file);
}

function shareText(windows: readonly Window[] | null): string {
  if (windows === null) return 'all of it';
  const bytes = windows.reduce((sum, { length }) => sum + length, 0);
  return `${windows.length} parts of it (${Math.ceil(bytes / 1024 / 1024)} MiB)`;
}

/** A longer path would be cut short by QEMU without a word. */
const MAX_SOCKET_PATH = 107;

function refuseLongPath(socket: string): void {
  if (Buffer.byteLength(socket) <= MAX_SOCKET_PATH) return;
  throw new QmpBackupError('failed', `--verify: ${socket} is too long for the path of a socket`, {
    hint: 'Name a folder with a shorter path by --fleece-dir.',
  });
}
