import { describe, expect, it } from 'vitest';
import type { DoctorFacts, TargetFacts, VmFacts } from '../../../src/doctor/facts.js';
import { judge } from '../../../src/doctor/findings.js';
import { bitmap, MiB, source, TARGET_ID, vmState } from '../../support/builders.js';

const fleece = { fleece: false, why: 'the target is local' };
const NOW = '2026-11-21T12:00:00.000Z';

function vmFacts(state: Partial<VmFacts['state']> = {}, more: Partial<VmFacts> = {}): VmFacts {
  const full = vmState([source('a')], state);
  return {
    state: full,
    disks: full.disks.map(({ address: node, device }) => ({ id: device ?? node, node })),
    beside: [],
    missingCommands: [],
    jobSparesGuest: false,
    canFleece: true,
    user: 'root',
    ...more,
  };
}

function targetFacts(more: Partial<TargetFacts> = {}, content: object = {}): TargetFacts {
  return {
    folder: '/backup',
    exists: true,
    lock: null,
    space: { free: 10_000 * MiB, total: 20_000 * MiB, reserve: 256 * MiB, network: false },
    content: {
      targetId: TARGET_ID,
      points: 2,
      lastPointAt: '2026-11-20T12:00:00.000Z',
      otherVm: null,
      repairs: [],
      broken: [],
      damage: [],
      warnings: [],
      ...content,
    },
    write: { clockAheadMs: 3 },
    qemuWrite: { ok: true },
    plan: { disks: [{ disk: 'a', level: 'inc', reason: 'changes since FULL-1' }], known: ['a'], need: MiB, fleece },
    ...more,
  };
}

const agent = { version: '7.2', missing: [], status: 'thawed' } as const;

function facts(more: Partial<DoctorFacts> = {}): DoctorFacts {
  return {
    now: NOW,
    clockStepMs: 1,
    qemuImg: '7.2.22',
    vm: vmFacts(),
    domain: undefined,
    agent,
    deadStreams: [],
    target: targetFacts(),
    ...more,
  };
}

/** What is found beside the good news, as `level subject: what -> todo`. */
function found(more: Partial<DoctorFacts>): string[] {
  const healthy = new Set(judge(facts()).map(({ what }) => what));
  return judge(facts(more))
    .filter(({ what }) => !healthy.has(what))
    .map(({ level, subject, what, todo }) => `${level} ${subject}: ${what} -> ${todo}`);
}

describe('a VM and target with which all is well', () => {
  it('have no findings but what is good to know', () => {
    expect(new Set(judge(facts()).map(({ level }) => level))).toEqual(new Set(['info']));
  });
});

describe('a disk', () => {
  const disk = (more: Parameters<typeof source>[1], device: string | null = 'a'): string[] =>
    found({ vm: vmFacts({ disks: [source(device, more)] }) });

  it.each<[string, Parameters<typeof source>[1], RegExp]>([
    ['encrypted', { encrypted: true }, /^error a: .*encrypted.* -> .*--allow-plaintext/],
    ['of version 2', { compat: '0.10' }, /^warning a: .*version 2.* -> .*amend -o compat=1.1/],
    ['raw', { format: 'raw', compat: null }, /^warning a: a raw image stores no bitmap/],
    ['of a backend only', { qdev: null }, /^info a: no device/],
    [
      'with spoiled bitmaps',
      { bitmaps: [bitmap('qmpbackup-x', { inconsistent: true }), bitmap('other', { inconsistent: true })] },
      /^warning a: .*do not record: qmpbackup-x;/,
    ],
  ])('that is %s', (_, more, expected) => {
    expect(disk(more).join('\n')).toMatch(expected);
  });

  it('has a name that its image gives', () => {
    const anonymous = {
      qdev: '/machine/peripheral-anon/device[0]/virtio-backend',
      address: '#block7',
      file: '/i/x.qcow2',
    };
    expect(disk(anonymous, null)).toEqual([expect.stringMatching(/^warning .*comes from the image file/)]);
    expect(disk({ ...anonymous, address: 'disk1' }, null)).toEqual([]);
    expect(disk({ ...anonymous, qdev: 'scsi0' }, null)).toEqual([]);
  });

  it('carries many bitmaps of ours, and others that are left alone', () => {
    const many = Array.from({ length: 9 }, (_, index) => bitmap(`qmpbackup-${index}`));
    expect(disk({ bitmaps: many })).toEqual([expect.stringMatching(/^warning a: it carries 9 bitmaps/)]);
    expect(disk({ bitmaps: many.slice(1) })).toEqual([]);
    expect(disk({ bitmaps: [bitmap('theirs')] })).toEqual(['info a: bitmaps of others are left alone: theirs -> null']);
  });

  it('shares its image, or is the backing file of another', () => {
    const twins = [source('a', { file: '/i/1' }), source('b', { file: '/i/1' })];
    expect(found({ vm: vmFacts({ disks: twins }) })).toEqual([
      expect.stringMatching(/^warning a: .*same image, \/i\/1/),
    ]);
    const line = [source('a', { file: '/i/1' }), source('b', { image: { 'full-backing-filename': '/i/1' } })];
    expect(found({ vm: vmFacts({ disks: line }) })).toEqual([expect.stringMatching(/^warning a: .*backing file of b/)]);
  });
});

describe('the VM', () => {
  const job = (id: string, type: string) => ({ id, type, status: 'running', current: 0, total: 1, error: null });

  it('runs jobs of others, which are left alone', () => {
    const jobs = [job('theirs', 'mirror'), job('copy', 'backup'), job('qmpbackup-abcdefabcdef-a', 'backup')];
    expect(found({ vm: vmFacts({ jobs }) })).toEqual([
      expect.stringMatching(/^info VM: .*theirs \(mirror\); it is left alone/),
      expect.stringMatching(/^info VM: .*copy \(backup\)/),
    ]);
  });

  it('runs jobs of a dead run: told here where no target tells it', () => {
    const vm = vmFacts({ jobs: [job('qmpbackup-abcdefabcdef-a', 'backup')] });
    expect(found({ vm, target: undefined })).toEqual([
      expect.stringMatching(/^warning VM: .*qmpbackup-abcdefabcdef-a -> .*recover/),
    ]);
    expect(found({ vm })).toEqual([]);
  });

  it('cannot be reached: that is the error, and the rest is judged', () => {
    const vm = { failed: 'the VM is locked by backup', hint: 'Wait' };
    const all = judge(facts({ vm, agent: undefined }));
    expect(all[0]).toEqual({ level: 'error', subject: 'VM', what: vm.failed, todo: 'Wait' });
    expect(all.filter(({ subject }) => subject === 'target')).not.toEqual([]);
    expect(all.filter(({ subject }) => subject === 'agent')).toEqual([]);
  });

  it('is too old, has no name, no disk', () => {
    expect(found({ vm: vmFacts({}, { missingCommands: ['job-dismiss'] }) })[0]).toMatch(/^error VM: .*job-dismiss/);
    const machine = { ...vmState([]).machine, name: null };
    expect(found({ vm: vmFacts({ machine }) })).toEqual([
      expect.stringMatching(/^warning VM: .*neither name nor UUID/),
    ]);
    expect(found({ vm: vmFacts({ disks: [] }) })).toEqual(['error VM: there is no disk to back up -> null']);
  });
});

describe('the agent', () => {
  it.each<[DoctorFacts['agent'], RegExp]>([
    [undefined, /^info agent: no agent socket/],
    [{ failed: 'no guest agent', hint: 'start it' }, /^warning agent: no guest agent; .* -> start it/],
    [{ ...agent, missing: ['guest-fsfreeze-freeze'] }, /^warning agent: .*does not allow guest-fsfreeze-freeze/],
    // While frozen it disallows the freeze too, which is not the point then.
    [{ ...agent, status: 'frozen', missing: ['guest-fsfreeze-freeze'] }, /^error agent: the guest is frozen/],
  ])('%j', (seen, expected) => {
    expect(found({ agent: seen })).toEqual([expect.stringMatching(expected)]);
  });
});

describe('the target', () => {
  const target = (more: Partial<TargetFacts>, content: object = {}): string[] =>
    found({ target: targetFacts(more, content) });
  const failed = { failed: 'it broke', hint: 'mend it' };
  const planned = { disk: 'a', level: 'full', reason: 'the bitmap is gone' } as const;

  it.each<[string, Partial<TargetFacts>, object, RegExp]>([
    [
      'locked by a live run',
      { lock: { who: 'backup (pid 1)', fate: 'alive' } },
      {},
      /^error target: .*locked by backup/,
    ],
    ['locked elsewhere', { lock: { who: 'x', fate: 'elsewhere' } }, {}, /^error target: .*--break-lock/],
    ['unreadable', { content: failed }, {}, /^error target: it broke -> mend it/],
    ['of another VM', {}, { otherVm: 'it belongs to VM b' }, /^error target: it belongs to VM b/],
    ['with leftovers', {}, { repairs: [{ kind: 'continue' }] }, /^warning target: .*1 step of repair -> .*recover/],
    [
      'with a file that is gone',
      {},
      { damage: ['a/I: it is missing. Lost with it is a of point 1'] },
      /^warning target: a\/I: it is missing\. Lost .* -> Put the files back/,
    ],
    ['with a broken chain', {}, { broken: [{ file: 'a/I', why: 'it is missing' }] }, /^warning target: a\/I .*missing/],
    ['of the future', {}, { lastPointAt: '2027-01-01T00:00:00.000Z' }, /^warning target: it is 2026.*earlier than/],
    ['not ours to write', { write: failed }, {}, /^error target: it broke/],
    ['with another clock', { write: { clockAheadMs: -60_000 } }, {}, /^warning target: .*60 s behind ours/],
    ["not QEMU's to write", { qemuWrite: failed }, {}, /^error target: it broke/],
    ['that was not planned for', { plan: failed }, {}, /^error target: it broke/],
    [
      'full after a fall-back',
      { plan: { disks: [planned], known: ['a'], need: 1, fleece } },
      {},
      /warning a: .*FULL: the bitmap/,
    ],
    ['full at first', { plan: { disks: [planned], known: [], need: 1, fleece } }, {}, /info a: .*FULL: the bitmap/],
  ])('%s', (_, more, content, expected) => {
    expect(target(more, content).join('\n')).toMatch(expected);
  });

  it('is too small to the byte', () => {
    const plan = (need: number): TargetFacts['plan'] => ({ disks: [], known: [], need, fleece });
    const space = { free: 300 * MiB, total: 300 * MiB, reserve: 256 * MiB, network: true };
    const levels = (need: number): string[] =>
      target({ space, plan: plan(need) }).map((line) => line.slice(0, line.indexOf(' ')));
    expect(levels(44 * MiB)).toEqual(['info', 'info']);
    expect(levels(44 * MiB + 1)).toEqual(['error', 'info']);
  });
});

describe('the host', () => {
  it('lacks qemu-img, or has its clock set', () => {
    expect(found({ qemuImg: { failed: 'qemu-img was not found', hint: 'Install it' } })).toEqual([
      'error host: qemu-img was not found -> Install it',
    ]);
    expect(found({ clockStepMs: -5_000 })).toEqual([expect.stringMatching(/^warning host: .*-5 s/)]);
  });
});
