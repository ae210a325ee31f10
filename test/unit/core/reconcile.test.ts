import { describe, expect, it } from 'vitest';
import type { OwnNode } from '../../../src/core/disk.js';
import { partOf } from '../../../src/core/journal-parts.js';
import type { Journal } from '../../../src/core/journal.js';
import {
  afterRepairs,
  afterSeal,
  dismantle,
  dropFailed,
  type Observed,
  reconcile,
  reconcileOffline,
  reconcileVm,
  type RepairAction,
  retire,
} from '../../../src/core/reconcile.js';
import { bitmap, catalog, entry, journal, point, source, vmState } from '../../support/builders.js';

const full = entry('a', 'FULL-1.qcow2');
const inc = entry('a', 'INC-2.qcow2', { parent: 'FULL-1.qcow2' });
const inc2 = entry('a', 'INC-3.qcow2', { parent: 'INC-2.qcow2' });

function observed(more: Partial<Observed>): Observed {
  return {
    catalog: undefined,
    olderMonths: [],
    journal: undefined,
    sources: [],
    jobs: [],
    ownNodes: [],
    ownExports: [],
    status: 'running',
    files: new Map(),
    ...more,
  };
}

const job = (id: string, status: string, type = 'backup') => ({ id, type, status, current: 0, total: 1, error: null });

describe('a run that died before its point was sealed', () => {
  const dead = journal('abcdefabcdef', [
    { disk: 'a', bitmap: 'qmpbackup-x-a-new', job: 'qmpbackup-abcdefabcdef-a', file: 'INC-2.qcow2' },
  ]);

  it('loses its job, bitmap and files, and the parent keeps its bitmap', () => {
    const actions = reconcile(
      observed({
        catalog: catalog([point(0, [full])]),
        journal: dead,
        sources: [source('a', { bitmaps: [bitmap(full.bitmap!.name), bitmap('qmpbackup-x-a-new'), bitmap('other')] })],
        jobs: [job('qmpbackup-abcdefabcdef-a', 'running'), job('mirror0', 'running', 'mirror')],
        files: new Map([['a', ['FULL-1.qcow2', 'INC-2.qcow2.partial', 'INC-2.qcow2.pieces', 'INC-9.qcow2.partial']]]),
      }),
    );
    expect(actions).toEqual([
      { kind: 'end-job', job: 'qmpbackup-abcdefabcdef-a', concluded: false },
      expect.objectContaining({ kind: 'remove-bitmap', bitmap: 'qmpbackup-x-a-new' }),
      { kind: 'delete-file', disk: 'a', file: 'INC-2.qcow2.partial' },
      { kind: 'delete-file', disk: 'a', file: 'INC-2.qcow2.pieces' },
      { kind: 'delete-folder', disk: 'a' },
      { kind: 'remove-journal' },
    ]);
  });

  it('deletes no file that the catalog names: after a rebase it may be that of another point', () => {
    const before = journal('000000000001', [
      { disk: 'a', bitmap: null, job: '', file: 'FULL-1.qcow2' },
      { disk: 'a', bitmap: null, job: '', file: 'INC-2.qcow2' },
    ]);
    const rebased = catalog([point(2, [{ ...full, bitmap: inc2.bitmap }])]);
    const names = ['FULL-1.qcow2', 'FULL-1.qcow2.pieces', 'FULL-1.qcow2.pieces.partial', 'INC-2.qcow2'];
    const actions = reconcile(observed({ catalog: rebased, journal: before, files: new Map([['a', names]]) }));
    expect(actions.filter(({ kind }) => kind === 'delete-file')).toEqual([
      { kind: 'delete-file', disk: 'a', file: 'FULL-1.qcow2.pieces.partial' },
      { kind: 'delete-file', disk: 'a', file: 'INC-2.qcow2' },
    ]);
  });

  it('continues the VM, so that its agent can answer, and thaws the guest before anything else', () => {
    const journals = { ...dead, freezes: { kind: 'agent', endpoint: '/run/qga' } as const, stops: true };
    const actions = reconcile(observed({ journal: journals, status: 'paused' }));
    expect(actions.slice(0, 2)).toEqual([
      { kind: 'continue' },
      { kind: 'thaw', guest: { kind: 'agent', endpoint: '/run/qga' } },
    ]);
  });

  it('leaves a VM alone that is not paused: it went on, or is another process by now', () => {
    for (const status of ['running', 'prelaunch', 'io-error']) {
      const actions = reconcile(observed({ journal: { ...dead, stops: true }, status }));
      expect(actions.map(({ kind }) => kind)).not.toContain('continue');
    }
  });
});

describe('a disk that failed in a run', () => {
  const names = { a: 'qmpbackup-x-a-new', b: 'qmpbackup-x-b-new' };
  const run = journal('000000000001', [
    { disk: 'a', bitmap: names.a, job: 'qmpbackup-000000000001-a', file: 'INC-2.qcow2' },
    { disk: 'b', bitmap: names.b, job: 'qmpbackup-000000000001-b', file: 'INC-2.qcow2' },
    { disk: 'definition', bitmap: null, job: '', file: 'DOMAIN-2.xml' },
  ]);
  const definition = {
    files: [{ kind: 'domain' as const, file: 'DOMAIN-2.xml', path: null, size: 1, sha256: 'a'.repeat(64) }],
    ...{ autostart: null, missing: [] },
  };
  const before = point(0, [full, entry('b', 'FULL-1.qcow2')]);
  const files = new Map([
    ['a', ['FULL-1.qcow2', 'INC-2.qcow2']],
    ['b', ['FULL-1.qcow2', 'INC-2.qcow2.partial']],
    ['definition', ['DOMAIN-2.xml']],
  ]);
  const sources = [source('a', { bitmaps: [bitmap(names.a)] }), source('b', { bitmaps: [bitmap(names.b)] })];
  const ofB: RepairAction[] = [
    expect.objectContaining({ kind: 'remove-bitmap', node: '#block-b', bitmap: names.b }) as RepairAction,
    { kind: 'delete-file', disk: 'b', file: 'INC-2.qcow2.partial' },
    { kind: 'delete-folder', disk: 'b' },
  ];

  it('loses its job, bitmap and file while the run goes on, and no other disk does', () => {
    const jobs = ['a', 'b'].map((disk) => job(`qmpbackup-000000000001-${disk}`, 'concluded'));
    const failed = partOf(run, ({ disk }) => disk === 'b');
    expect(dropFailed({ catalog: catalog([before]), sources, jobs, files }, failed)).toEqual([
      { kind: 'end-job', job: 'qmpbackup-000000000001-b', concluded: true },
      ...ofB,
    ]);
  });

  it('loses what is left of it, where the run died after the others were sealed', () => {
    const sealed = point(1, [{ ...inc, bitmap: { name: names.a, persistent: true } }], { id: run.attempt, definition });
    const actions = reconcile(observed({ catalog: catalog([before, sealed]), journal: run, sources, files }));
    expect(actions).toEqual([...ofB, { kind: 'remove-journal' }]);
  });

  it('loses the bitmap that it still has once the others are sealed, unless that is theirs by its name', () => {
    const sealed = point(1, [{ ...inc, bitmap: { name: names.a, persistent: true } }], { id: run.attempt, definition });
    const of = { catalog: catalog([before, sealed]), olderMonths: [], sources };
    expect(afterSeal({ ...of, journal: run })).toEqual(ofB.slice(0, 1));
    expect(afterSeal({ ...of, journal: undefined })).toEqual([]);
    const named = { ...run, disks: run.disks.map((disk) => ({ ...disk, bitmap: names.a })) };
    expect(afterSeal({ ...of, journal: named })).toEqual([]);
  });

  it('keeps a bitmap whose name another disk was sealed with: a checkpoint of libvirt is one for all', () => {
    const shared = { ...run, disks: run.disks.map((disk) => ({ ...disk, bitmap: 'qmpbackup-x-1' })) };
    const sealed = point(1, [{ ...inc, bitmap: { name: 'qmpbackup-x-1', persistent: true } }], {
      ...{ id: run.attempt, definition },
    });
    const carrying = ['a', 'b'].map((disk) => source(disk, { bitmaps: [bitmap('qmpbackup-x-1')] }));
    const actions = reconcile(
      observed({ catalog: catalog([before, sealed]), journal: shared, sources: carrying, files }),
    );
    expect(actions).toEqual([...ofB.slice(1), { kind: 'remove-journal' }]);
  });
});

describe('a run that had started its domain paused', () => {
  const starts = journal('abcdefabcdef', [], { starts: 'uuid' });

  it('has it ended as the last step before the journal goes, unless it went on since', () => {
    expect(reconcile(observed({ journal: starts, status: 'paused' }))).toEqual([
      { kind: 'end-domain', domain: 'uuid' },
      { kind: 'remove-journal' },
    ]);
    for (const status of ['running', 'shut off']) {
      expect(reconcile(observed({ journal: starts, status }))).toEqual([{ kind: 'remove-journal' }]);
    }
  });
});

describe('a run that died after its point was sealed', () => {
  it('keeps its files and bitmap; the bitmap that it retired goes', () => {
    const sealed = catalog([point(0, [full]), point(1, [inc]), point(2, [inc2])]);
    const actions = reconcile(
      observed({
        catalog: sealed,
        journal: journal(sealed.points[2]!.id, [
          { disk: 'a', bitmap: inc2.bitmap!.name, job: 'qmpbackup-000000000002-a', file: inc2.file },
        ]),
        sources: [source('a', { bitmaps: [full, inc, inc2].map(({ bitmap: each }) => bitmap(each!.name)) })],
        files: new Map([['a', ['FULL-1.qcow2', 'INC-2.qcow2', 'INC-3.qcow2']]]),
      }),
    );
    expect(actions).toEqual([
      expect.objectContaining({ kind: 'remove-bitmap', bitmap: inc.bitmap!.name }),
      { kind: 'remove-journal' },
    ]);
  });
});

describe('bitmaps', () => {
  it('of others, and of a copy of this target, are left alone', () => {
    const sources = [source('a', { bitmaps: [bitmap('qmpbackup-00112233445566aa-a-unknown'), bitmap('libvirt-x')] })];
    expect(retire(observed({ catalog: catalog([point(0, [full])]), sources }))).toEqual([]);
  });

  const october = catalog([point(0, [entry('a', 'FULL-1.qcow2', { bitmap: { name: 'october', persistent: true } })])]);

  it('of the newest file that has one stay when the VM was off for the point after it', () => {
    const off = entry('a', 'INC-3.qcow2', { parent: 'INC-2.qcow2', bitmap: null });
    const held = catalog([point(0, [full]), point(1, [inc]), point(2, [off])]);
    const sources = [source('a', { bitmaps: [bitmap(full.bitmap!.name), bitmap(inc.bitmap!.name)] })];
    expect(retire({ catalog: held, olderMonths: [], sources })).toEqual([]);
  });

  it('of an older month go once this month has a sealed FULL with its bitmap in place', () => {
    const november = catalog([point(0, [full])]);
    const sources = [source('a', { bitmaps: [bitmap('october'), bitmap(full.bitmap!.name)] })];
    expect(retire(observed({ catalog: november, olderMonths: [october], sources }))).toEqual([
      expect.objectContaining({ kind: 'remove-bitmap', bitmap: 'october' }),
    ]);
  });

  it('of an older month stay while this month has no sealed file of that disk', () => {
    const november = catalog([point(0, [entry('b', 'FULL-1.qcow2')])]);
    const sources = [source('a', { bitmaps: [bitmap('october')] })];
    expect(retire(observed({ catalog: november, olderMonths: [october], sources }))).toEqual([]);
    expect(retire(observed({ olderMonths: [october], sources }))).toEqual([]);
  });
});

it('changes nothing where no run died: what a newer point made needless goes with the next seal', () => {
  const sources = [source('a', { bitmaps: [full, inc].map(({ bitmap: each }) => bitmap(each!.name)) })];
  const sealed = catalog([point(0, [full]), point(1, [inc]), point(2, [inc2])]);
  expect(retire({ catalog: sealed, olderMonths: [], sources })).toHaveLength(1);
  expect(reconcile(observed({ catalog: sealed, sources }))).toEqual([]);
});

it('ends jobs of ours that nobody owns, whichever target they served, and no others', () => {
  const jobs = [
    job('qmpbackup-0123456789ab-a', 'concluded'),
    job('qmpbackup-mine', 'running'),
    job('backup0', 'running'),
  ];
  expect(reconcile(observed({ jobs }))).toEqual([
    { kind: 'end-job', job: 'qmpbackup-0123456789ab-a', concluded: true },
  ]);
});

it('takes away the nodes by which a dead run tried its target', () => {
  const actions = reconcile(observed({ ownNodes: [probe('qmpbackup-probe-0011aabb')] }));
  expect(actions).toEqual([{ kind: 'remove-node', node: 'qmpbackup-probe-0011aabb' }]);
});

it('tells a dry run what the VM will be like after the repairs', () => {
  const bitmaps = [bitmap(full.bitmap!.name, { busy: true }), bitmap('qmpbackup-x-a-new'), bitmap('o', { busy: true })];
  const mirror = job('mirror0', 'running', 'mirror');
  const vm = vmState([source('a', { bitmaps })], { jobs: [job('qmpbackup-abcdefabcdef-a', 'running'), mirror] });
  const foreseen = afterRepairs(vm, [
    { kind: 'end-job', job: 'qmpbackup-abcdefabcdef-a', concluded: false },
    { kind: 'remove-bitmap', node: '#block-a', bitmap: 'qmpbackup-x-a-new', why: 'died' },
  ]);
  expect(foreseen.jobs).toEqual([mirror]);
  expect(foreseen.disks[0]!.bitmaps.map(({ name, busy }) => [name, busy])).toEqual([
    [full.bitmap!.name, false],
    ['o', true],
  ]);
  expect(afterRepairs(vm, [])).toEqual(vm);
});

describe('what can be repaired without the VM', () => {
  const dead = journal(
    'abcdefabcdef',
    [
      { disk: 'a', bitmap: 'qmpbackup-x-a-new', job: 'qmpbackup-abcdefabcdef-a', file: 'INC-2.qcow2' },
      { disk: 'b', bitmap: 'qmpbackup-x-b-new', job: 'qmpbackup-abcdefabcdef-b', file: 'INC-2.qcow2' },
    ],
    { freezes: { kind: 'agent', endpoint: '/run/agent' } as const, stops: true },
  );
  const files = new Map([
    ['a', ['FULL-1.qcow2', 'INC-2.qcow2.partial']],
    ['b', ['INC-2.qcow2']],
  ]);

  it('is to thaw and to remove files that nobody writes; the journal waits', () => {
    const known = catalog([point(0, [full])]);
    expect(reconcileOffline({ catalog: known, journal: dead, files }, new Set(['b/INC-2.qcow2']))).toEqual({
      now: [
        { kind: 'thaw', guest: { kind: 'agent', endpoint: '/run/agent' } },
        { kind: 'delete-file', disk: 'a', file: 'INC-2.qcow2.partial' },
        { kind: 'delete-folder', disk: 'a' },
        { kind: 'delete-folder', disk: 'b' },
      ],
      inUse: [{ kind: 'delete-file', disk: 'b', file: 'INC-2.qcow2' }],
      waiting: dead,
    });
  });

  it('is no file of a point that was sealed, and nothing without a journal', () => {
    const sealed = catalog([point(0, [full]), point(1, [inc, entry('b', 'INC-2.qcow2')], { id: dead.attempt })]);
    const { now, inUse, waiting } = reconcileOffline({ catalog: sealed, journal: dead, files }, new Set());
    expect([...now, ...inUse]).toEqual([{ kind: 'thaw', guest: { kind: 'agent', endpoint: '/run/agent' } }]);
    expect(waiting).toBe(dead);
    expect(reconcileOffline({ catalog: sealed, journal: undefined, files }, new Set())).toEqual({
      now: [],
      inUse: [],
      waiting: null,
    });
  });
});

describe('what can be repaired without a journal', () => {
  it('is what runs in the VM under our names', () => {
    const jobs = [job('qmpbackup-abcdefabcdef-a', 'concluded'), job('qmpbackup-me', 'running'), job('x', 'running')];
    expect(reconcileVm({ jobs, ownNodes: [probe('qmpbackup-probe-00112233')], ownExports: [] })).toEqual([
      { kind: 'end-job', job: 'qmpbackup-abcdefabcdef-a', concluded: true },
      { kind: 'remove-node', node: 'qmpbackup-probe-00112233' },
    ]);
  });
});

describe('what fleecing put into a VM', () => {
  const folder = '/images/qmpbackup-0123456789ab.scratch';
  const nodes: OwnNode[] = [
    { node: 'qmpbackup-0123456789ab-tmp0', role: 'scratch', below: 'x', qdev: null, file: `${folder}/0.qcow2` },
    { node: 'qmpbackup-0123456789ab-cbw0', role: 'filter', below: 'disk', qdev: '/m/vd1', file: '/images/d1' },
    { node: 'qmpbackup-0123456789ab-snp0', role: 'snapshot', below: 'cbw', qdev: null, file: '/images/d1' },
  ];
  const dismantled = (ownNodes: OwnNode[], journals?: Journal): RepairAction[] =>
    dismantle({ ownNodes, ownExports: [], journal: journals });

  it('goes from the top down, whichever run put it there, with its scratch images', () => {
    expect(dismantled(nodes)).toEqual([
      { kind: 'remove-node', node: 'qmpbackup-0123456789ab-snp0' },
      { kind: 'take-out-filter', qdev: '/m/vd1', filter: 'qmpbackup-0123456789ab-cbw0', node: 'disk' },
      { kind: 'remove-node', node: 'qmpbackup-0123456789ab-cbw0' },
      { kind: 'remove-node', node: 'qmpbackup-0123456789ab-tmp0' },
      { kind: 'delete-scratch', folder },
    ]);
  });

  it('is not taken out of a device that has something else open by now, a snapshot above it perhaps', () => {
    const covered = nodes.map((each) => ({ ...each, qdev: null }));
    expect(dismantled(covered).map(({ kind }) => kind)).not.toContain('take-out-filter');
  });

  it('never has a folder of another name deleted, whatever a journal says', () => {
    const died = journal('0123456789ab', [], {
      scratch: ['/etc', '/', '/x/qmpbackup-0123456789ab.scratch/..', folder],
    });
    expect(dismantled([], died)).toEqual([{ kind: 'delete-scratch', folder }]);
  });
});

describe("QEMU's one NBD server", () => {
  const stops = (more: Partial<Observed>) => reconcile(observed(more)).some(({ kind }) => kind === 'stop-nbd-server');
  const serving = journal('abcdefabcdef', [], { servesNbd: true });
  const snapshot: OwnNode = { ...probe('qmpbackup-abcdefabcdef-snp0'), role: 'snapshot' };

  it('is stopped while the snapshot of the run that served it is there', () => {
    expect(stops({ journal: serving, ownNodes: [snapshot] })).toBe(true);
    expect(stops({ ownExports: ['qmpbackup-abcdefabcdef-nbd0'] })).toBe(true);
  });

  it("is somebody else's in a QEMU that was started again since", () => {
    expect(stops({ journal: serving })).toBe(false);
    expect(stops({ journal: journal('abcdefabcdef', []), ownNodes: [snapshot] })).toBe(false);
  });
});

function probe(node: string): OwnNode {
  return { node, role: 'probe', below: null, qdev: null, file: null };
}
