import { fileNode } from '../core/block-node.js';
import type { PlannedDisk } from '../core/plan.js';
import { QmpBackupError } from '../errors.js';
import type { QmpClient } from '../qmp/client.js';
import { type CommandArguments, run, type TransactionAction } from '../qmp/commands.js';
import type { BlockDevice } from '../qmp/replies.js';
import { childFinder } from './inspect.js';

/**
 * Fleecing: what the guest overwrites while its backup runs goes to a local scratch image, and the backup reads the
 * instant through a `snapshot-access` node. If the scratch image fails the snapshot breaks, not the guest's write.
 * Taking it apart again is `dismantle` in domain/reconcile, for a run that ends well and for one that died alike.
 */
export interface FleecedDisk {
  /** QOM path of the guest device, or its bare id, as `query-block` says it. */
  readonly qdev: string;
  /** Absolute path of the scratch image. */
  readonly scratch: string;
  /** Bytes that the scratch image may take. */
  readonly limit: number;
  readonly nodes: { readonly scratch: string; readonly filter: string; readonly snapshot: string };
}

export interface Fleeced {
  readonly planned: PlannedDisk;
  readonly fleece: FleecedDisk;
}

/** What can be done while the guest runs: the scratch image is opened. */
export async function openScratch(client: QmpClient, { fleece: { nodes, scratch, limit } }: Fleeced): Promise<void> {
  await run(client, 'blockdev-add', {
    driver: 'qcow2',
    'node-name': nodes.scratch,
    // Of no use after a power cut: nobody has to wait until it is on disk.
    cache: { 'no-flush': true },
    // The raw layer refuses what goes beyond its size: a bound that holds however fast the guest writes.
    file: { driver: 'raw', size: limit, file: fileNode(scratch) },
  });
}

/**
 * Whether a `snapshot-access` node answers rightly of single clusters only: asked of a range that begins with what is in
 * the scratch image and goes on with what is not, it takes all of it from the disk as it is now, status and data. Seen with
 * 7.2 and not with 10.0; no other was tried (QEMU's `hbitmap_status` was mended in February 2023).
 */
export function answersByCluster({ qemuVersion }: QmpClient['greeting']): boolean {
  return qemuVersion.major < FIRST_WITH_LONG_ANSWERS;
}

const FIRST_WITH_LONG_ANSWERS = 10;

export interface FilterOptions {
  readonly cbwTimeoutS: number;
}

/**
 * Makes the filters and puts them in. Each disk's instant begins here, so the VM must stand still, or its disks have
 * several; and QEMU 7.2 aborts where a filter is made above a disk that an iothread is writing to
 * (`qemu_mutex_unlock_impl`). The filter takes no `bitmap`: with one, what is dirtied later could not be read.
 */
export async function insertFilters(
  client: QmpClient,
  disks: readonly Fleeced[],
  { cbwTimeoutS }: FilterOptions,
): Promise<void> {
  refuseChanged(await run(client, 'query-block', {}, WITHIN_PAUSE), disks);
  const add = (node: CommandArguments['blockdev-add']): Promise<unknown> =>
    run(client, 'blockdev-add', node, WITHIN_PAUSE);
  await Promise.all(
    disks.map(({ planned, fleece: { nodes } }) =>
      add({
        driver: 'copy-before-write',
        'node-name': nodes.filter,
        file: planned.source.root,
        target: nodes.scratch,
        'on-cbw-error': 'break-snapshot',
        'cbw-timeout': cbwTimeoutS,
      }),
    ),
  );
  await Promise.all(
    disks.map(({ fleece: { qdev, nodes } }) =>
      run(client, 'qom-set', { path: qomPath(qdev), property: 'drive', value: nodes.filter }, WITHIN_PAUSE),
    ),
  );
  await Promise.all(
    disks.map(({ fleece: { nodes } }) =>
      add({ driver: 'snapshot-access', 'node-name': nodes.snapshot, file: nodes.filter }),
    ),
  );
}

/** Where a job of somebody else began meanwhile, the guest's writes would go past its filter. */
function refuseChanged(devices: readonly BlockDevice[], disks: readonly Fleeced[]): void {
  for (const { planned, fleece } of disks) {
    const now = devices.find(({ qdev }) => qdev === fleece.qdev)?.inserted?.['node-name'];
    if (now === planned.source.root) continue;
    throw new QmpBackupError('failed', `${planned.disk}: the disk's block nodes were changed by another program`, {
      hint: 'Nothing was kept of this run. Run it again when the other job on this disk has ended.',
    });
  }
}

export interface FilterInPlace {
  readonly qdev: string;
  readonly filter: string;
  /** What the filter was above when the VM was looked at. */
  readonly node: string;
}

/**
 * Gives the guest device the node below the filter. Who took an external snapshot since the VM was looked at put an
 * overlay above the filter or below it: the device must not lose that, so both are looked up just before.
 */
export async function takeOutFilter(client: QmpClient, { qdev, filter, node }: FilterInPlace): Promise<void> {
  const [devices, graph] = await Promise.all([run(client, 'query-block'), run(client, 'x-debug-query-block-graph')]);
  if (devices.find((device) => device.qdev === qdev)?.inserted?.['node-name'] !== filter) return;
  const value = childFinder(graph)(filter, ['file']) ?? node;
  await run(client, 'qom-set', { path: qomPath(qdev), property: 'drive', value });
}

/** The VM stands still meanwhile. */
const WITHIN_PAUSE = { timeoutMs: 5_000 };

/**
 * What says to a job that reads the snapshot what to copy: a disabled copy of the parent's bitmap. It holds everything
 * up to this transaction, and the snapshot's content of that is the instant's.
 */
export function workBitmapActions({ planned, fleece }: Fleeced): readonly TransactionAction[] {
  if (planned.copyBitmap === null) return [];
  const node = fleece.nodes.snapshot;
  return [
    { type: 'block-dirty-bitmap-add', data: { node, name: WORK_BITMAP, persistent: false, disabled: true } },
    {
      type: 'block-dirty-bitmap-merge',
      data: { node, target: WORK_BITMAP, bitmaps: [{ node: planned.source.address, name: planned.copyBitmap }] },
    },
  ];
}

/** On our own node, so the name needs to be no other. */
export const WORK_BITMAP = 'work';

/** QEMU tells some devices (scsi-hd, ide-hd) by their bare id. */
export function qomPath(qdev: string): string {
  return qdev.startsWith('/') ? qdev : `/machine/peripheral/${qdev}`;
}
