import type { Catalog } from '../../src/core/catalog.js';
import type { DirtyBitmap, SourceDisk, VmState } from '../../src/core/disk.js';
import type { Journal } from '../../src/core/journal.js';
import { matchDisks } from '../../src/core/match-disks.js';
import { bitmapName } from '../../src/core/names.js';
import type { PlanRequest, PlanInput } from '../../src/core/plan.js';
import type { Point, PointDisk } from '../../src/core/point.js';

/** Small complete values of the domain's types; a test names only what it is about. */
export const MiB = 1024 * 1024;
export const TARGET_ID = '00112233445566aa';

export function bitmap(name: string, more: Partial<DirtyBitmap> = {}): DirtyBitmap {
  return {
    name,
    granularity: 65536,
    count: 0,
    recording: true,
    persistent: true,
    busy: false,
    inconsistent: false,
    ...more,
  };
}

export function source(device: string | null, more: Partial<SourceDisk> = {}): SourceDisk {
  return {
    device,
    qdev: device === null ? null : `/machine/peripheral/${device}-dev/virtio-backend`,
    address: `#block-${device}`,
    root: `#block-${device}`,
    underJob: false,
    format: 'qcow2',
    file: `/images/${device}.qcow2`,
    virtualSize: 64 * MiB,
    allocated: MiB,
    compat: '1.1',
    cannotTrack: null,
    encrypted: false,
    bitmaps: [],
    image: {},
    ...more,
  };
}

export function entry(disk: string, file: string, more: Partial<PointDisk> = {}): PointDisk {
  const from = source(disk);
  return {
    disk,
    level: file.startsWith('FULL') ? 'full' : file.startsWith('DIFF') ? 'diff' : 'inc',
    reason: 'for a test',
    state: 'whole',
    file,
    parent: null,
    bitmap: { name: `qmpbackup-${TARGET_ID}-${disk}-${file}`, persistent: true },
    virtualSize: 64 * MiB,
    plaintextOfEncrypted: false,
    source: {
      device: from.device,
      qdev: from.qdev,
      node: from.address,
      file: from.file,
      format: 'qcow2',
      image: {},
    },
    size: MiB,
    allocated: MiB,
    mtimeMs: 1,
    sha256: 'a'.repeat(64),
    changed: MiB,
    durationMs: 1,
    compressed: false,
    ...more,
  };
}

export function point(number: number, disks: PointDisk[], more: Partial<Point> = {}): Point {
  return {
    id: `${number}`.padStart(12, '0'),
    chain: 'c1',
    number,
    level: number === 0 ? 'full' : 'inc',
    createdAt: '2026-11-21T12:00:00.000Z',
    consistency: 'crash',
    vmStatus: 'running',
    machine: { name: 'vm', uuid: null, qemuVersion: '7.2.22', type: 'pc', memory: 1, cpus: 1 },
    disks,
    removed: [],
    ...more,
  };
}

export function catalog(points: Point[], more: Partial<Catalog> = {}): Catalog {
  return {
    schema: 1,
    tool: 'test',
    targetId: TARGET_ID,
    createdAt: '2026-11-21T12:00:00.000Z',
    vm: { uuid: null, name: 'vm', label: null },
    points,
    retired: [],
    ...more,
  };
}

export function journal(attempt: string, disks: Journal['disks'], more: Partial<Journal> = {}): Journal {
  return {
    schema: 1,
    attempt,
    startedAt: '2026-11-21T12:00:00.000Z',
    what: 'backup',
    owner: { kind: 'monitor', endpoint: '/run/q' },
    vm: { uuid: null, name: 'vm', label: null },
    disks,
    madeFolders: disks.map(({ disk }) => disk),
    freezes: null,
    stops: false,
    scratch: [],
    servesNbd: false,
    ...more,
  };
}

export function vmState(disks: SourceDisk[], more: Partial<VmState> = {}): VmState {
  return {
    machine: { name: 'vm', uuid: null, qemuVersion: '7.2.22', type: 'pc', memory: 1, cpus: 1 },
    status: 'running',
    running: true,
    migration: null,
    inactive: false,
    disks,
    leftOut: [],
    jobs: [],
    ownNodes: [],
    iothread: null,
    passedThrough: [],
    ownExports: [],
    ...more,
  };
}

export function request(level: PlanRequest['level'], more: Partial<PlanRequest> = {}): PlanRequest {
  return {
    level,
    include: [],
    exclude: [],
    excludeRaw: false,
    allowPlaintext: false,
    skipFailed: false,
    compress: false,
    fullInstead: false,
    chainLimits: [],
    ...more,
  };
}

export function planInput(
  level: PlanRequest['level'],
  sources: SourceDisk[],
  known: Catalog | undefined,
  more: Partial<PlanInput> & { readonly request?: PlanRequest } = {},
): PlanInput {
  return {
    request: request(level),
    vm: vmState(sources),
    known: matchDisks(known, sources),
    catalog: known,
    bitmapName: (disk) => bitmapName(TARGET_ID, disk, 'abcdefabcdef'),
    attempt: 'abcdefabcdef',
    nowSeconds: 1000,
    files: new Map(),
    brokenChains: new Map(),
    ...more,
  };
}
