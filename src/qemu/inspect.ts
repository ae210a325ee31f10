import type { DirtyBitmap, JobState, LeftOut, OwnNode, SourceDisk, VmState } from '../core/disk.js';
import {
  bypassesQemu,
  COMMANDS_OF_ITS_OWN,
  type GuestDevice,
  isPassedThrough,
  unlistedDisks,
} from '../core/guest-devices.js';
import { isOurExport, isOurJob, roleOfNode } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import type { QmpClient } from '../qmp/client.js';
import { type ReplyOf, run } from '../qmp/commands.js';
import { QmpCommandError } from '../qmp/errors.js';
import type { BlockDevice, BlockGraph, BlockNode } from '../qmp/replies.js';
import { guestDevices, madeByQemu, memoryFiles } from './guest-devices.js';

/** What QEMU answers without -uuid. */
const NO_UUID = '00000000-0000-0000-0000-000000000000';

/**
 * Looks at a running VM in one round of queries. Each disk is one row of `query-block` with its format node, found
 * below filters (throttle, copy-on-read, a running job's own), where QEMU keeps the bitmaps.
 */
export async function inspectVm(client: QmpClient): Promise<VmState> {
  // A job that ends between two of the queries takes its filter out of the graph: they then tell of different graphs.
  for (let attempt = 1; ; attempt += 1) {
    const state = await lookOnce(client);
    if (state) return state;
    if (attempt === MAX_LOOKS) {
      throw new QmpBackupError('failed', "the VM's block devices kept changing while they were looked at", {
        hint: 'Another program is starting and ending jobs on this VM. Run it again.',
      });
    }
  }
}

const MAX_LOOKS = 20;

async function lookOnce(client: QmpClient): Promise<VmState | undefined> {
  const [
    devices,
    nodes,
    graph,
    exports,
    jobs,
    status,
    migration,
    name,
    uuid,
    cpus,
    memory,
    machineType,
    iothreads,
    guest,
  ] = await Promise.all([
    run(client, 'query-block').catch(untold),
    run(client, 'query-named-block-nodes', { flat: true }).catch(untold),
    run(client, 'x-debug-query-block-graph'),
    run(client, 'query-block-exports'),
    readJobs(client),
    run(client, 'query-status'),
    run(client, 'query-migrate'),
    run(client, 'query-name'),
    readUuid(client),
    run(client, 'query-cpus-fast'),
    run(client, 'query-memory-size-summary'),
    run(client, 'qom-get', { path: '/machine', property: 'type' }),
    run(client, 'query-iothreads'),
    guestDevices(client),
  ]);
  const { qemuVersion } = client.greeting;
  const legacy = await madeByQemu(
    client,
    devices.map(({ qdev }) => qdev),
  );
  const found = disksOf(devices, nodes, graph, jobs, [...guest, ...legacy]);
  if (!found) return undefined;
  const unlisted = unlistedDisks(guest, await memoryFiles(client, guest));
  return {
    machine: {
      name: name.name ?? null,
      uuid,
      qemuVersion: `${qemuVersion.major}.${qemuVersion.minor}.${qemuVersion.micro}`,
      type: typeof machineType === 'string' ? machineType.replace(/-machine$/, '') : null,
      memory: memory['base-memory'] + (memory['plugged-memory'] ?? 0),
      cpus: cpus.length,
    },
    status: status.status,
    running: status.running,
    migration: migration.status ?? null,
    inactive: found.disks.some((disk) => isInactive(disk, graph)),
    disks: found.disks,
    leftOut: [...found.leftOut, ...unlisted],
    jobs,
    iothread: iothreads[0]?.id ?? null,
    passedThrough: guest.filter(isPassedThrough).map(({ name: id, type }) => `${id} (${type})`),
    ownNodes: ownNodes(devices, nodes, graph),
    ownExports: exports.map(({ id }) => id).filter(isOurExport),
  };
}

/** Seen on 7.2 and 10.0: one image whose bitmaps cannot be read fails the query for all disks, and QEMU does not say which. */
function untold(error: unknown): never {
  if (!(error instanceof QmpCommandError)) throw error;
  throw new QmpBackupError('failed', `QEMU tells of none of the VM's disks: ${error.desc}`, {
    cause: error,
    hint:
      'The storage of one of them may be gone, and QEMU then answers for none: look for the server or the network behind it (and at ' +
      "failed reads in QEMU's query-blockstats), or take that disk out of the VM. Then run it again: no change is lost.",
  });
}

/** The VM's UUID, or null when it was given none. */
export async function readUuid(client: QmpClient): Promise<string | null> {
  const { UUID } = await run(client, 'query-uuid');
  return UUID === NO_UUID ? null : UUID;
}

export async function readJobs(client: QmpClient): Promise<readonly JobState[]> {
  const jobs: ReplyOf<'query-jobs'> = await run(client, 'query-jobs');
  return jobs.map((job) => ({
    id: job.id,
    type: job.type,
    status: job.status,
    current: job['current-progress'],
    total: job['total-progress'],
    error: job.error ?? null,
  }));
}

/** Undefined when the replies tell of different graphs. */
export function disksOf(
  devices: readonly BlockDevice[],
  nodes: readonly BlockNode[],
  graph: BlockGraph,
  jobs: readonly JobState[] = [],
  guest: readonly GuestDevice[] = [],
): { readonly disks: readonly SourceDisk[]; readonly leftOut: readonly LeftOut[] } | undefined {
  const byName = new Map(nodes.map((node) => [node['node-name'] ?? '', node]));
  const below = childFinder(graph);
  const disks: SourceDisk[] = [];
  const leftOut: LeftOut[] = [];
  for (const device of devices) {
    const name = device.device || (device.qdev ?? device.inserted?.['node-name'] ?? 'unnamed');
    if (!device.inserted) {
      leftOut.push({ name, reason: 'no medium', kind: 'no-disk' });
    } else if (device.inserted.ro) {
      const reason = device.removable ? 'a read-only removable medium (cdrom)' : 'read-only';
      leftOut.push({ name, reason, kind: 'no-disk' });
    } else if (bypassesQemu(device.qdev, guest)) {
      leftOut.push({ name, ...COMMANDS_OF_ITS_OWN });
    } else {
      const path = pathToFormat(device.inserted, byName, below);
      const node = path?.at(-1);
      if (!path || !node) return undefined;
      const underJob = path.some(isJobFilter);
      const layers = layersBelow(node, nodes, below);
      const source = sourceDisk(device, node, allocatedIn(layers, nodes));
      const heldBy = holderOf(source.address, graph, jobs);
      disks.push({
        ...{ ...source, underJob, backing: layers.slice(1).map(({ file }) => file) },
        ...(heldBy && { heldBy }),
        ...(isTemporary(node, layers) && { temporary: true }),
      });
    }
  }
  return { disks, leftOut };
}

/** Drivers that pass a disk through and hold no data of their own, with the child that they pass through. */
const FILTERS: Readonly<Record<string, readonly string[]>> = {
  throttle: ['file'],
  'copy-on-read': ['file'],
  'copy-before-write': ['file'],
  compress: ['file'],
  // Filters of a running mirror or commit job; the child's name differs between QEMU versions.
  mirror_top: ['backing', 'file'],
  commit_top: ['backing', 'file'],
};

function ownNodes(devices: readonly BlockDevice[], nodes: readonly BlockNode[], graph: BlockGraph): OwnNode[] {
  const below = childFinder(graph);
  const files = new Map(nodes.map((node) => [node['node-name'], node.file]));
  const bottom = (node: string): string => {
    const next = below(node, ['file']);
    return next === undefined ? node : bottom(next);
  };
  return nodes.flatMap((each): OwnNode[] => {
    const node = each['node-name'] ?? '';
    const role = roleOfNode(node);
    if (role === undefined) return [];
    const device = devices.find(({ inserted }) => inserted?.['node-name'] === node);
    return [
      {
        node,
        role,
        below: below(node, ['file']) ?? null,
        qdev: device?.qdev ?? null,
        file: files.get(bottom(node)) ?? null,
      },
    ];
  });
}

/**
 * Whether QEMU has given the disk to another one, as at the end of a migration, or has not got it yet. `active` of a node is told
 * from 10.0 on; what its users may do with it, by all versions: nobody then has the right to write, neither the guest's
 * device to the node nor the node to its file.
 */
export function isInactive(
  { address, qdev }: Pick<SourceDisk, 'address' | 'qdev'>,
  { nodes, edges }: BlockGraph,
): boolean {
  const ids = nodes.filter(({ name }) => name === address).map(({ id }) => id);
  const around = edges.filter(({ parent, child }) => ids.includes(parent) || ids.includes(child));
  return qdev !== null && around.length > 0 && !around.some(({ perm }) => perm.includes('write'));
}

type FindChild = (node: string, childNames: readonly string[]) => string | undefined;

/** QEMU 7.2 tells the edges between nodes only in this debugging query. */
export function childFinder({ nodes, edges }: BlockGraph): FindChild {
  const names = new Map(nodes.map(({ id, name }) => [id, name]));
  const children = new Map(
    edges.map(({ parent, child, name }) => [`${names.get(parent)}\n${name}`, names.get(child)] as const),
  );
  return (node, childNames) => childNames.map((child) => children.get(`${node}\n${child}`)).find(Boolean);
}

/** From the device's own node down through its filters to the format node, which is last. */
function pathToFormat(
  top: BlockNode,
  byName: ReadonlyMap<string, BlockNode>,
  below: FindChild,
): readonly BlockNode[] | undefined {
  const path: BlockNode[] = [];
  let node = byName.get(top['node-name'] ?? '');
  while (node && path.length < byName.size) {
    path.push(node);
    const filter = FILTERS[node.drv];
    if (!filter) return path;
    node = byName.get(below(node['node-name'] ?? '', filter) ?? '');
  }
  return undefined;
}

/** QEMU puts these in for as long as a job runs. */
const JOB_FILTERS = ['copy-before-write', 'mirror_top', 'commit_top'];

function isJobFilter(node: BlockNode): boolean {
  return JOB_FILTERS.includes(node.drv) && roleOfNode(node['node-name'] ?? '') === undefined;
}

/**
 * Seen on 7.2 and 10.0: mirror, commit and stream have an edge to the disk's node, and its backup is refused
 * (`Node 'd1' is busy`). A backup of somebody else has one to its filter alone, and ours goes on beside it.
 */
function holderOf(
  node: string,
  { nodes, edges }: BlockGraph,
  jobs: readonly JobState[],
): { readonly id: string; readonly type: string } | undefined {
  const at = nodes.filter(({ type, name }) => type !== 'block-job' && name === node).map(({ id }) => id);
  const holders = edges.filter(({ child }) => at.includes(child)).map(({ parent }) => parent);
  const held = nodes.filter(({ id, type }) => type === 'block-job' && holders.includes(id)).map(({ name }) => name);
  const job = jobs.find((each) => held.includes(each.id) && !isOurJob(each));
  return job && { id: job.id, type: job.type };
}

/**
 * QEMU's overlay of `-snapshot`, or one that `blockdev-snapshot-sync` put above it: that takes over how the disk was opened
 * (7.2 and 10.0: `no-flush`, and that its file is deleted at once). One that was opened for itself (`blockdev-snapshot`) does not.
 */
function isTemporary(top: BlockNode, layers: readonly BlockNode[]): boolean {
  return isOverlayOfQemu(top) || (top.cache?.['no-flush'] === true && layers.some(isOverlayOfQemu));
}

/** QEMU itself names the file, and its overlay records no backing file, so that its name is a `json:` one. */
function isOverlayOfQemu(node: BlockNode): boolean {
  if (!node['node-name']?.startsWith('#') || !node.file.startsWith('json:')) return false;
  return /"filename": "[^"]*\/vl\.[A-Za-z0-9]{6}"\}\}$/.test(node.file);
}

/**
 * The image, and the images under it, nearest first. The flat list of nodes nests no backing images, so the chain is walked
 * along the graph.
 */
function layersBelow(top: BlockNode, nodes: readonly BlockNode[], below: FindChild): readonly BlockNode[] {
  const byName = new Map(nodes.map((node) => [node['node-name'] ?? '', node]));
  const layers: BlockNode[] = [];
  let node: BlockNode | undefined = top;
  for (let passed = 0; node && passed < nodes.length; passed += 1) {
    const filter: readonly string[] | undefined = FILTERS[node.drv];
    if (!filter) layers.push(node);
    node = byName.get(below(node['node-name'] ?? '', filter ?? ['backing']) ?? '');
  }
  return layers;
}

/**
 * What the image and all images under it take, in bytes: what a whole copy can have to write. An image whose size QEMU does
 * not tell counts as full: it leaves that out for network storage, and a block device has no blocks of its own in its file's
 * status.
 */
function allocatedIn(layers: readonly BlockNode[], nodes: readonly BlockNode[]): number {
  const size = layers[0]?.image['virtual-size'] ?? 0;
  const devices = new Set(nodes.filter(({ drv }) => drv === 'host_device').map(({ file }) => file));
  const sum = layers.reduce(
    (all, { file, image }) => all + (devices.has(file) ? size : (image['actual-size'] ?? size)),
    0,
  );
  return Math.min(sum, size);
}

function sourceDisk(device: BlockDevice, node: BlockNode, allocated: number): Omit<SourceDisk, 'underJob' | 'backing'> {
  const { image } = node;
  return {
    device: device.device === '' ? null : device.device,
    qdev: device.qdev ?? null,
    address: node['node-name'] ?? '',
    root: device.inserted?.['node-name'] ?? '',
    format: node.drv,
    file: node.file,
    virtualSize: image['virtual-size'],
    allocated,
    compat: image['format-specific']?.data?.compat ?? null,
    cannotTrack: null,
    encrypted: node.encrypted === true || image.encrypted === true,
    bitmaps: (node['dirty-bitmaps'] ?? []).flatMap((bitmap): DirtyBitmap[] =>
      bitmap.name === undefined
        ? []
        : [
            {
              name: bitmap.name,
              granularity: bitmap.granularity,
              count: bitmap.count,
              recording: bitmap.recording,
              persistent: bitmap.persistent,
              busy: bitmap.busy,
              inconsistent: bitmap.inconsistent ?? false,
            },
          ],
    ),
    image,
  };
}
