import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { backupDocument } from '../../../src/cli/documents/backup.js';
import { configCheckDocument, configExampleDocument, configShowDocument } from '../../../src/cli/documents/config.js';
import { cleanupDocument } from '../../../src/cli/documents/cleanup.js';
import { consolidateSourceDocument } from '../../../src/cli/documents/consolidate-source.js';
import { errorDocument } from '../../../src/cli/documents/error.js';
import { importDocument } from '../../../src/cli/documents/import.js';
import { infoDocument } from '../../../src/cli/documents/info.js';
import { listDocument } from '../../../src/cli/documents/list.js';
import { mergeDocument } from '../../../src/cli/documents/merge.js';
import { filesFindDocument, filesGetDocument, filesLsDocument } from '../../../src/cli/documents/files.js';
import type { ListedPoint } from '../../../src/operations/list.js';
import type { LocatedFile } from '../../../src/guest-files/reader.js';
import { mountDocument, umountDocument } from '../../../src/cli/documents/mount.js';
import { noteDocument, pinDocument, unpinDocument } from '../../../src/cli/documents/pin.js';
import { consolidateDocument } from '../../../src/cli/documents/consolidate.js';
import { pruneDocument } from '../../../src/cli/documents/prune.js';
import { rebaseDocument } from '../../../src/cli/documents/rebase.js';
import { recoverDocument } from '../../../src/cli/documents/recover.js';
import { restoreDocument } from '../../../src/cli/documents/restore.js';
import { bootDocument } from '../../../src/cli/documents/boot.js';
import { runDocument } from '../../../src/cli/documents/run.js';
import { reportDocument } from '../../../src/cli/documents/report.js';
import { statusDocument } from '../../../src/cli/documents/status.js';
import { readConfig } from '../../../src/config/read-config.js';
import { shownSettings } from '../../../src/config/shown-settings.js';
import { type Vm, vmFrom } from '../../../src/config/vm.js';
import { notifyTestDocument } from '../../../src/cli/documents/notify.js';
import type { Notification } from '../../../src/notify/notify.js';
import type { VmStatus } from '../../../src/report/status.js';
import type { VmHistory } from '../../../src/run/history.js';
import { serveDocument } from '../../../src/cli/documents/serve.js';
import { verifyDocument } from '../../../src/cli/documents/verify.js';
import type { DirtyBitmap } from '../../../src/core/disk.js';
import type { RepairAction } from '../../../src/core/reconcile.js';
import { QmpBackupError } from '../../../src/errors.js';
import { bitmap, entry, point, source, TARGET_ID, vmState } from '../../support/builders.js';
import { checkedAnswer } from '../../support/json-answer.js';

const CONFIG = readConfig(
  'defaults: { target: "/b/{vm}" }\nvms: { web1: { domain: d, exclude: [vdc] } }\nnotify: [{ webhook: "http://h/x" }]',
  '/c.yaml',
);
const TOLD: Notification = { notifier: 'ops', kind: 'mail', what: ['failure', 'always'], failed: 'why' };
const CONFIGURED: Vm = vmFrom(CONFIG, 'vms', { name: 'web1', ...CONFIG.vms.get('web1')! });
const HISTORY: VmHistory = {
  ...{ vm: 'web1', target: '/b', folder: '/b', failingSince: 't', checks: { verify: 'v', boot: null } },
  run: {
    ...{ at: 't', endedAt: 'u', result: 'failed' },
    steps: [
      {
        ...{ verb: 'backup', at: 't', durationMs: 1.5, exitCode: 1, result: 'failed', why: 'w', hint: 'h' },
        ...{ warnings: ['x'], summary: null },
      },
    ],
  },
  backup: { at: 't', name: 'c:1', level: 'inc', bytes: 1, durationMs: 2, frozenMs: 3.5, pausedMs: null },
};
const REPAIRS: readonly RepairAction[] = [
  { kind: 'thaw', guest: { kind: 'agent', endpoint: '/run/vm.qga' } },
  { kind: 'thaw', guest: { kind: 'domain', uuid: 'd-1' } },
  { kind: 'continue' },
  { kind: 'end-job', job: 'j', concluded: true },
  { kind: 'remove-export', id: 'e' },
  { kind: 'stop-nbd-server' },
  { kind: 'take-out-filter', qdev: 'q', filter: 'f', node: 'n' },
  { kind: 'remove-node', node: 'n' },
  { kind: 'delete-scratch', folder: '/s' },
  { kind: 'remove-bitmap', node: 'n', bitmap: 'b', why: 'w' },
  { kind: 'redefine-checkpoint', checkpoint: 'c', createdAt: '2026-11-21T12:00:00.000Z', disks: ['vda'] },
  { kind: 'delete-file', disk: 'd1', file: 'x' },
  { kind: 'delete-folder', disk: 'd1' },
  { kind: 'end-domain', domain: 'd-1' },
  { kind: 'remove-journal' },
];
const GUEST_FILE: LocatedFile = {
  ...{ path: '/a', name: 'a', size: 1, mode: 0o644, uid: 0, gid: 0, mtime: 2, changed: 3, inode: '12', device: '' },
  kind: 'file',
};
const VOLUME = { disk: 'd1', name: '1', type: 'ext', size: 1 };
const FULL = entry('d1', 'FULL-1.qcow2');
const INC = entry('d1', 'INC-2.qcow2', { parent: FULL.file });
const POINT = point(1, [INC], {
  lacks: [{ disk: 'd2', reason: 'r', kind: 'failed' }],
  definition: {
    files: [{ kind: 'tpm', file: 'f', path: 'tpm2/x', size: 1, sha256: 'a'.repeat(64) }],
    autostart: null,
    missing: [],
  },
});
const LISTED: ListedPoint = {
  ...{ point: POINT, files: 1, needs: [], notWhole: null, damaged: [], suspect: [], freed: { bytes: 0, neededBy: [] } },
  booted: { point: POINT.id, at: 't', by: 'agent', afterMs: 1, why: null },
};
const STATUS: VmStatus = {
  ...{ vm: 'web1', target: '/b', level: 'critical', reasons: [{ level: 'critical', text: 'r' }], history: HISTORY },
  ...{ lastGood: LISTED, ageMs: 1, maxAgeMs: 2, chainPoints: 1, damaged: 0 },
  facts: {
    vm: 'web1',
    points: [LISTED],
    unknown: [],
    allocated: 5,
    oldestProofAt: 'o',
    folders: [],
    space: { free: 1, total: 2 },
  },
};

const DOCUMENTS = {
  backup: backupDocument({
    target: '/t',
    plan: {
      ...{ level: 'inc', chain: 'c1', number: 1, beginsChain: false, removed: ['d3'], remarks: [], warnings: [] },
      leftOut: [{ name: 'd2', reason: 'r', kind: 'failed' }],
      disks: [
        {
          ...{ disk: 'd1', source: source('d1'), level: 'inc', reason: 'r', file: INC.file, parent: FULL },
          ...{ compares: false, copyBitmap: 'b', newBitmap: null, job: 'j' },
        },
      ],
    },
    repairs: REPAIRS,
    warnings: [{ code: 'not-frozen', text: 'w' }],
    standing: [],
    space: { need: 1, free: 2, reserve: 1 },
    point: POINT,
    freeze: { fileSystems: 2, frozenMs: 1.5 },
    fleecing: { fleece: true, why: 'w' },
    pausedMs: 0.4,
    transactionMs: 3,
  }),
  verify: verifyDocument(
    {
      targets: [
        {
          ...{ target: '/t', vm: { uuid: null, name: 'vm', label: null }, targetId: TARGET_ID },
          findings: [
            {
              ...{ level: 'error', subject: 'd1', code: 'damaged', file: 'x', why: 'w' },
              ...{ what: 'x is damaged: w', todo: 't' },
            },
          ],
          ...{ repaired: ['r'], points: 1, lost: ['point 0'], files: 2, read: { files: 1, bytes: 3 } },
          booted: {
            name: 'point 1',
            proof: { point: 'a', at: '2026-11-01T00:00:00.000Z', by: 'agent', afterMs: 1, why: null },
            evidence: { files: ['/e/point-1.png'], missing: [] },
          },
        },
      ],
    },
    [{ code: 'not-locked', text: 'w' }],
  ),
  list: listDocument({
    targets: [
      {
        ...{ target: '/t', vm: { uuid: null, name: 'vm', label: null }, targetId: TARGET_ID, warnings: [] },
        points: [
          {
            ...{ point: POINT, files: 1, needs: ['d1/x'], notWhole: null },
            damaged: [{ disk: 'd1', file: 'd1/x', why: 'it is missing' }],
            suspect: [{ disk: 'd1', file: 'x', why: 'w' }],
            booted: { point: 'a', at: '2026-11-01T00:00:00.000Z', by: 'agent', afterMs: 1, why: null },
            freed: { bytes: 0, neededBy: ['000000000002'] },
          },
        ],
      },
    ],
    unread: [{ target: '/t/broken', error: new QmpBackupError('unsafe', 'w', { hint: 'h' }) }],
  }),
  info: infoDocument(
    {
      vm: vmState([source('d1', { bitmaps: [bitmap('b')], heldBy: { type: 'mirror', id: 'j' } })], {
        leftOut: [{ name: 'cd', reason: 'r', kind: 'no-disk', instead: 'nothing' }],
        jobs: [{ id: 'j', type: 'mirror', status: 'running', current: 1, total: 2, error: null }],
      }),
      ...{ tracked: ['d1'], beside: ['x'], elsewhere: null },
    },
    'jobs',
  ),
  consolidate: consolidateDocument(
    {
      chains: [
        {
          ...{ vm: { uuid: null, name: 'vm', label: null }, target: '/t', freed: 1, removed: ['/t/d1/x'] },
          head: { point: POINT, name: 'point 1' },
          merged: [{ point: POINT, name: 'point 1' }],
          files: [{ disk: 'd1', file: 'FULL-1.qcow2', from: ['FULL-0.qcow2'] }],
          failed: new QmpBackupError('locked', 'w', { hint: 'h' }),
        },
      ],
      dryRun: false,
    },
    [],
  ),
  prune: pruneDocument(
    {
      histories: [
        {
          ...{
            vm: { uuid: null, name: 'vm', label: null },
            targets: ['/t'],
            removed: ['/t/d1/x'],
            freed: 1,
            missing: 2,
          },
          points: [
            {
              ...{ target: '/t', point: POINT, name: 'point 1', mergedInto: ['i'], bytes: 3 },
              reasons: [{ code: 'last', text: 'last 1' }],
            },
          ],
          failed: new QmpBackupError('locked', 'w', { hint: 'h' }),
        },
      ],
      dryRun: false,
    },
    [],
  ),
  pin: pinDocument({ target: '/t', point: { ...POINT, pinned: true, note: 'n' }, name: 'point 1', changed: true }, []),
  unpin: unpinDocument({ target: '/t', point: POINT, name: 'point 1', changed: false }, []),
  note: noteDocument({ target: '/t', point: { ...POINT, note: 'n' }, name: 'point 1', changed: true }, []),
  recover: recoverDocument(
    {
      targets: [
        {
          ...{ target: '/t', actions: REPAIRS, left: ['l'] },
          run: { what: 'backup', startedAt: '2026-11-21T12:00:00.000Z', sealed: false },
        },
      ],
      ...{ vm: REPAIRS, dryRun: true },
    },
    [],
  ),
  merge: mergeDocument({ targetFile: '/m', files: ['a'], virtualSize: 1 }, [{ code: 'space-short', text: 'w' }]),
  restore: restoreDocument(
    {
      ...{ output: '/o', point: 'point 1', machine: '/o/machine.json', compared: true },
      disks: [{ disk: 'd1', path: '/o/d1.qcow2', format: 'qcow2', files: ['FULL-1.qcow2'], virtualSize: 1 }],
      leftOut: [{ name: 'd3', reason: 'r', kind: 'request' }],
      lacks: [{ disk: 'd2', reason: 'r', kind: 'failed' }],
      definition: {
        ...{ name: 'vm', uuid: 'u', xml: '/o/vm.xml', nvram: null, tpm: null, notes: ['n'], defined: true },
      },
    },
    [{ code: 'point-lacks-disk', text: 'w' }],
  ),
  serve: serveDocument(
    {
      ...{ target: '/t', point: 'point 1' },
      disks: [
        { disk: 'd1', uri: 'nbd://127.0.0.1:1/d1', virtualSize: 1, overlay: '/o/d1.qcow2', files: ['FULL-1.qcow2'] },
      ],
    },
    [],
  ),
  mount: mountDocument(
    {
      ...{ target: '/t', point: 'point 1', mountpoint: '/m' },
      disks: [{ disk: 'd1', path: '/m/d1.raw', virtualSize: 1, files: ['FULL-1.qcow2'] }],
    },
    [],
  ),
  run: runDocument(
    { ended: [HISTORY], notBegun: ['db'], notKept: null },
    { config: '/c.yaml', dryRun: false, notifications: [TOLD] },
    [{ code: 'vm-failed', text: 'w' }],
  ),
  status: statusDocument({ level: 'critical', vms: [STATUS] }, { config: '/c.yaml', at: new Date(0) }, []),
  report: reportDocument(
    { level: 'warning', vms: 2, pages: ['/r/index.html', '/r/vm-web1.html'], removed: ['vm-db.html'] },
    { config: null, at: new Date(0) },
    [],
  ),
  'config-check': configCheckDocument(CONFIG, [CONFIGURED], []),
  'config-show': configShowDocument(CONFIG, CONFIGURED, shownSettings(CONFIGURED).slice(0, 14), []),
  'config-example': configExampleDocument('vms:\n', []),
  'notify-test': notifyTestDocument('/c.yaml', [TOLD], []),
  umount: umountDocument({ mountpoint: '/m', files: ['/m/d1.raw'], dead: true }, []),
  'files-ls': filesLsDocument(
    {
      ...{ target: '/t', point: 'point 1', volume: VOLUME, files: [GUEST_FILE] },
      volumes: [{ disk: 'd1', name: '1', type: 'ext', size: 1, reader: 'sleuthkit' }],
    },
    [],
  ),
  'files-get': filesGetDocument(
    { target: '/t', point: 'point 1', output: '/o', files: [{ ...GUEST_FILE, volume: VOLUME }], leftOut: ['/fifo'] },
    [{ code: 'file-left-out', text: 'w' }],
  ),
  'files-find': filesFindDocument(
    {
      ...{ target: '/t', points: ['point 0'], leftOut: ['/twice'] },
      skipped: [{ point: 'point 1', why: 'it is missing', damaged: false }],
      found: [
        {
          volume: 'd1',
          disk: 'd1',
          partition: 'whole',
          path: '/a',
          states: [{ point: 'point 0', state: 'first', size: 1, mtime: 2 }],
        },
      ],
    },
    [],
  ),
  boot: bootDocument(
    {
      ...{ target: '/t', folder: '/to', point: 'point 1', state: 'started', pid: 1, command: ['qemu', '-m', '64M'] },
      ...{ script: '/to/start-vm.sh', monitor: '/to/monitor.sock', agent: null, domain: null },
      disks: [{ disk: 'd1', overlay: '/to/d1.qcow2', leans: true }],
    },
    [],
  ),
  rebase: rebaseDocument(
    {
      ...{ dir: '/t/d1', full: FULL.file, head: INC.file, merged: [INC.file], lost: ['a'], relinked: ['b'] },
      ...{ resumes: false, dryRun: false, removed: [INC.file] },
    },
    [],
  ),
  'consolidate-source': consolidateSourceDocument(
    {
      disks: [{ target: 'vda', image: '/i', by: 'commit', removed: ['/o/x.overlay'], left: ['/o/theirs'] }],
      repairs: [],
      dryRun: false,
    },
    [],
  ),
  cleanup: cleanupDocument(
    {
      bitmaps: [{ where: 'n', bitmap: 'b', removed: true, why: 'w' }],
      stuck: [{ where: 'n', bitmap: 'c', removed: false, why: 'w' }],
      ...{ needFull: [TARGET_ID], dryRun: false, repairs: REPAIRS },
    },
    [{ code: 'bitmap-stuck', text: 'w' }],
  ),
  import: importDocument(
    {
      ...{ source: '/s', target: '/t', vm: { uuid: 'u', name: 'vm', label: null }, chain: 'c1', dryRun: false },
      points: [
        {
          ...{ level: 'full', number: 0, checkpoint: 'c', createdAt: '2026-11-21T12:00:00.000Z' },
          disks: [{ disk: 'd1', from: 'f', file: FULL.file, parent: null, virtualSize: 1, suspect: null }],
        },
      ],
    },
    [],
  ),
  error: errorDocument({ code: 'unsafe', exitCode: 13, message: 'm', hint: null }),
};

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

describe.each(Object.entries(DOCUMENTS))('the document of %s', (name, document) => {
  const printed = JSON.parse(JSON.stringify(document)) as Json;

  it('is as its schema says', () => {
    expect(checkedAnswer(JSON.stringify(document))).toEqual(printed);
  });

  // What scripts read: a change here belongs into the changelog. Written anew by vitest --update.
  it('is as it was', async () => {
    await expect(`${JSON.stringify(document, null, 2)}\n`).toMatchFileSnapshot(
      join(import.meta.dirname, `../../golden/json/${name}.json`),
    );
  });

  it('is refused where any one field has another name', () => {
    const renamed = withOneRenamed(printed);
    expect(renamed.length).toBeGreaterThan(3);
    for (const { field, value } of renamed) {
      expect(() => checkedAnswer(JSON.stringify(value)), field).toThrow();
    }
  });
});

describe('what the document of a VM leaves out', () => {
  const facts = { tracked: [], beside: [], elsewhere: null };
  const bitmapsOf = (one: DirtyBitmap) =>
    infoDocument({ vm: vmState([source('d1', { bitmaps: [one] })]), ...facts }, 'bitmaps').vm.disks[0]!.bitmaps;

  it('is a number that nobody has counted', () => {
    expect(bitmapsOf(bitmap('b', { count: 7 }))).toMatchObject([{ count: 7 }]);
    expect(bitmapsOf(bitmap('b', { count: 7, uncounted: true }))).toMatchObject([{ count: null }]);
  });

  it('is what a later version of this program may come to know of a disk', () => {
    const disk = { ...source('d1'), secret: 'of ours' };
    const document = infoDocument(
      { vm: { ...vmState([disk]), more: 1 } as ReturnType<typeof vmState>, ...facts },
      'jobs',
    );
    expect(JSON.stringify(document)).not.toMatch(/secret|more/);
  });
});

/** The value as often as it has fields, at whatever depth, each time with another one renamed. */
function withOneRenamed(value: Json): readonly { readonly field: string; readonly value: Json }[] {
  if (typeof value !== 'object' || value === null) return [];
  if (isList(value)) {
    return value.flatMap((item, index) =>
      withOneRenamed(item).map((each) => ({
        field: `${index}.${each.field}`,
        value: value.map((other, at) => (at === index ? each.value : other)),
      })),
    );
  }
  return Object.entries(value).flatMap(([name, inner]) => {
    const others = Object.fromEntries(Object.entries(value).filter(([other]) => other !== name));
    return [
      { field: name, value: { ...others, [`${name}Renamed`]: inner } },
      ...withOneRenamed(inner).map((each) => ({
        field: `${name}.${each.field}`,
        value: { ...others, [name]: each.value },
      })),
    ];
  });
}

function isList(value: Json): value is readonly Json[] {
  return Array.isArray(value);
}
