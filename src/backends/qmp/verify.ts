import { dirname, join } from 'node:path';
import type { Journal } from '../../core/journal.js';
import { exportName } from '../../core/names.js';
import { type BlockNodeSpec, nbdNode } from '../../core/block-node.js';
import { isSocketPath } from '../../core/socket-path.js';
import { warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { type FleecedDisk, answersByCluster } from '../../qemu/fleece.js';
import { exportNode, startNbdServer } from '../../qemu/nbd-export.js';
import type { TransactionDisk } from '../../qemu/transaction.js';
import { QmpCommandError } from '../../qmp/errors.js';
import { readInFull, readByCluster } from '../../qemu-tools/image-view.js';
import { writeJournal } from '../../repository/journal-file.js';
import { compareWithInstant } from '../methods/compare-with-instant.js';
import { MORE_SCRATCH } from './follow-jobs.js';
import type { QmpPlan, QmpRun } from './run.js';

export type FleecedTransactionDisk = TransactionDisk & { readonly fleece: FleecedDisk };

/** Starts QEMU's NBD server for instants, `what` asks for it; resolves to its socket. `journal` says that the run serves NBD. */
export async function serveInstants(
  run: QmpRun,
  { fleece }: FleecedTransactionDisk,
  journal: Journal,
  what: string,
): Promise<string> {
  const socket = join(dirname(fleece.scratch), 'nbd.sock');
  refuseLongPath(socket, what);
  await writeJournal(run.target, journal);
  await serve(run, socket, journal, what);
  return socket;
}

/** Exports a node of a fleeced disk; resolves to the name of the export. */
export async function exportPart(
  { session, attempt }: QmpRun,
  { fleece }: FleecedTransactionDisk,
  part: 'snapshot' | 'scratch',
  index: number,
): Promise<string> {
  const name = exportName(attempt, part, index);
  await exportNode(session.client, fleece.nodes[part], name);
  return name;
}

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
  const fleeced = staged.filter(isFleeced);
  const [first] = fleeced;
  if (!first) return;
  const socket = await serveInstants(run, first, journal, '--verify');
  for (const [index, disk] of fleeced.entries()) await verifyDisk(run, planned, disk, { socket, index });
  for (const { planned: missed } of staged.filter(({ fleece }) => fleece === null)) {
    run.warn(
      warning('not-verified', `${missed.disk} was not verified: no guest device has it open, so it was not fleeced`),
    );
  }
}

export function isFleeced(disk: TransactionDisk): disk is FleecedTransactionDisk {
  return disk.fleece !== null;
}

async function serve(run: QmpRun, socket: string, journal: Journal, what: string): Promise<void> {
  try {
    await startNbdServer(run.session.client, socket);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    // It is somebody else's: no repair of ours may stop it.
    await writeJournal(run.target, { ...journal, servesNbd: false });
    throw new QmpBackupError('failed', `${what}: QEMU could not serve the frozen instant: ${error.desc}`, {
      cause: error,
      hint: `QEMU has one NBD server. If another program uses it, take the backup without ${what}.`,
    });
  }
}

async function verifyDisk(
  run: QmpRun,
  planned: QmpPlan,
  disk: FleecedTransactionDisk,
  { socket, index }: { readonly socket: string; readonly index: number },
): Promise<void> {
  const { client } = run.session;
  const exported = async (part: 'snapshot' | 'scratch'): Promise<BlockNodeSpec> => {
    const name = await exportPart(run, disk, part, index);
    return nbdNode({ address: { kind: 'unix', path: socket }, exportName: name });
  };
  const snapshot = await exported('snapshot');
  const instant = answersByCluster(client.greeting)
    ? readByCluster(snapshot, await exported('scratch'))
    : readInFull(snapshot);
  try {
    await compareWithInstant(run, planned, disk, instant);
  } catch (error) {
    if (run.signal.aborted || !messageOf(error).includes(exportName(run.attempt, 'snapshot', index))) throw error;
    throw new QmpBackupError('failed', `--verify: the frozen instant of ${disk.planned.disk} was lost meanwhile`, {
      cause: error,
      hint: `Its scratch image was full or too slow. ${MORE_SCRATCH}`,
    });
  }
}

function refuseLongPath(socket: string, what: string): void {
  if (isSocketPath(socket)) return;
  throw new QmpBackupError('failed', `${what}: ${socket} is too long for the path of a socket`, {
    hint: 'Name a folder with a shorter path by --fleece-dir.',
  });
}
