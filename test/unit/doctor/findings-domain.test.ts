import { describe, expect, it } from 'vitest';
import { virshCommand } from '../../../src/core/virsh-hint.js';
import type { DomainFacts } from '../../../src/doctor/domain-facts.js';
import { judgeDomain } from '../../../src/doctor/findings-domain.js';
import { bitmap, MiB, source, TARGET_ID, vmState } from '../../support/builders.js';

const disk = (more = {}) => source('vda', { address: 'vda', ...more });

function domainFacts(more: Partial<DomainFacts> = {}, state: Partial<DomainFacts['state']> = {}): DomainFacts {
  const full = vmState([disk()], state);
  return {
    state: full,
    disks: full.disks.map(({ address: node }) => ({ id: node, node })),
    connect: null,
    uri: 'qemu:///system',
    version: 'libvirt 9.0.0 with QEMU 7.2.22',
    active: true,
    stateReason: 'booted',
    missingPrograms: [],
    backing: { vda: 0 },
    foreignCheckpoints: [],
    snapshots: { internal: [], external: [] },
    agent: { channel: 'connected', answer: { fileSystems: 2 } },
    scratch: [
      { folder: '/images', need: 64 * MiB, space: { free: 128 * MiB, network: false }, write: null, barred: null },
    ],
    overlays: [],
    overlaysInTarget: [],
    overlayObstacles: [],
    detachedOverlays: [],
    ...more,
  };
}

/** What is found beside the good news. */
function found(more: Partial<DomainFacts>, state: Partial<DomainFacts['state']> = {}): string[] {
  const healthy = new Set(judgeDomain(domainFacts()).map(({ what }) => what));
  return judgeDomain(domainFacts(more, state))
    .filter(({ what }) => !healthy.has(what))
    .map(({ level, subject, what, todo }) => `${level} ${subject}: ${what} -> ${todo}`);
}

describe('a domain with which all is well', () => {
  it('has no findings but what is good to know', () => {
    expect(judgeDomain(domainFacts()).map(({ level }) => level)).toEqual(['info', 'info', 'info']);
  });
});

describe('a domain', () => {
  it('that is off, paused by an I/O error, or of a session', () => {
    expect(found({ active: false }, { status: 'shut off', running: false }).join('\n')).toMatch(/as they lie/);
    expect(found({ stateReason: 'I/O error' }, { status: 'paused', running: false }).join('\n')).toMatch(
      /^warning VM: a write of its guest failed.* -> .*virsh resume/m,
    );
    expect(found({ uri: 'qemu:///session' })).toEqual([expect.stringMatching(/^info VM: .*session of a user/)]);
  });

  it('with a job of somebody else cannot be backed up; with one of a dead run it can', () => {
    const job = { type: 'backup', status: 'running', current: 0, total: 0, error: null };
    expect(found({}, { jobs: [{ ...job, id: 'job of the domain' }] })).toEqual([
      expect.stringMatching(/^error VM: .*one job .*-> .*virsh domjobinfo/),
    ]);
    expect(found({}, { jobs: [{ ...job, id: 'qmpbackup-0123456789ab-domain' }] })).toEqual([]);
  });

  it('with checkpoints of others and with snapshots', () => {
    expect(found({ foreignCheckpoints: ['virtnbdbackup.0'] })).toEqual([
      expect.stringMatching(/^info VM: .*left alone: virtnbdbackup.0/),
    ]);
    expect(found({ snapshots: { internal: ['a'], external: ['b'] } })).toEqual([
      expect.stringMatching(/^warning VM: .*ends the domain -> .*cleanup --remove-bitmaps/),
      expect.stringMatching(/^info VM: external snapshots: b/),
    ]);
    const [warning] = found({ snapshots: { internal: ['a'], external: [] }, connect: 'qemu:///session' });
    expect(warning).toMatch(/qmpbackup --connect qemu:\/\/\/session --domain \S+ cleanup --remove-bitmaps;/);
  });
});

describe('a disk of a domain', () => {
  const of = (more: object, facts: Partial<DomainFacts> = {}): string[] =>
    found({ state: vmState([disk(more)]), ...facts });

  it('that is raw, or builds on other images', () => {
    expect(of({ format: 'raw', cannotTrack: 'libvirt has no checkpoints for raw disks' })).toEqual([
      expect.stringMatching(/^warning vda: libvirt has no checkpoints .*-> Convert/),
    ]);
    expect(found({ backing: { vda: 2 } })).toEqual([expect.stringMatching(/^info vda: its image builds on 2 others/)]);
  });

  it('whose bitmaps are broken, or too many', () => {
    const ours = (count: number, inconsistent: boolean) => ({
      bitmaps: Array.from({ length: count }, (_, n) => bitmap(`qmpbackup-${TARGET_ID}-${n}`, { inconsistent })),
    });
    expect(of(ours(1, true))).toEqual([expect.stringMatching(/^warning vda: checkpoints whose bitmaps are missing/)]);
    expect(of(ours(9, false))).toEqual([expect.stringMatching(/^warning vda: it carries 9 checkpoints of ours/)]);
    expect(of({ bitmaps: [bitmap('virtnbdbackup.0', { inconsistent: true })] })).toEqual([]);
  });

  it('that is left out is told, and a writable hard disk warned of', () => {
    const leftOut = [
      { name: 'hda', reason: 'a removable medium (cdrom)', kind: 'no-disk' },
      { name: 'vdb', reason: 'its image is also that of vdc', kind: 'rule' },
    ] as const;
    expect(found({}, { leftOut })).toEqual([
      expect.stringMatching(/^info hda: left out/),
      expect.stringMatching(/^warning vdb: left out of backups: its image/),
    ]);
  });

  it('that has a job is told of, with commands for the libvirt that was meant', () => {
    const virsh = virshCommand('qemu:///session', 'blockjob', 'my vm', 'vda');
    expect(of({ heldBy: { type: 'Block Pull', virsh } })).toEqual([
      expect.stringMatching(/^error vda: it cannot be copied: a job of somebody else has it \(Block Pull\)/),
    ]);
    const [job] = judgeDomain(
      domainFacts({ connect: 'qemu:///session', stateReason: 'I/O error' }, { status: 'paused' }),
    ).filter(({ todo }) => todo?.includes('virsh'));
    expect(job?.todo).toMatch(/virsh --connect qemu:\/\/\/session resume/);
    expect(virsh).toBe("virsh --connect qemu:///session blockjob 'my vm' vda");
    expect(virshCommand(null, 'resume', 'vm')).toBe('virsh resume vm');
  });

  it('whose image another disk uses, too', () => {
    const twins = vmState([disk(), source('vdb', { address: 'vdb', file: '/images/vda.qcow2' })]);
    expect(found({ state: twins })).toEqual([expect.stringMatching(/^warning vda: .* use the same image/)]);
  });
});

describe('the agent of a domain', () => {
  const of = (channel: DomainFacts['agent']['channel'], answer: DomainFacts['agent']['answer'] = null): string[] =>
    found({ agent: { channel, answer } });

  it('that is absent, away, frozen or does not answer', () => {
    expect(of('absent')).toEqual([
      expect.stringMatching(/^info agent: the domain has no channel .*-> Give the domain/),
    ]);
    expect(of('disconnected')).toEqual([expect.stringMatching(/^warning agent: no agent is connected/)]);
    expect(of('connected', { fileSystems: 0 })).toEqual([expect.stringMatching(/^info agent: .*no file system/)]);
    expect(of('connected', 'frozen')).toEqual([expect.stringMatching(/^error agent: the guest is frozen/)]);
    expect(of('connected', { failed: 'it hangs', hint: null })).toEqual([
      expect.stringMatching(/^warning agent: it hangs; --quiesce would/),
    ]);
  });

  it('of a guest that does not run is not asked', () => {
    const paused = found({ agent: { channel: 'connected', answer: null } }, { status: 'paused', running: false });
    expect(paused.join('\n')).toMatch(/^info agent: it cannot be asked/m);
  });
});

describe('the place for scratch images', () => {
  const place = {
    folder: '/s',
    need: 100 * MiB,
    space: { free: 200 * MiB, network: false },
    write: null,
    barred: null,
  };

  it('is too small, may hang, or is out of reach', () => {
    expect(found({ scratch: [{ ...place, space: { free: 99 * MiB, network: false } }] })).toEqual([
      expect.stringMatching(/^warning scratch: \/s has 99\.0 MiB free .*the guest is paused .*--fleece-dir/),
    ]);
    expect(found({ scratch: [{ ...place, space: { free: 200 * MiB, network: true } }] })[0]).toMatch(/^warning .*hang/);
    const barred = { folder: '/', uid: 64055 };
    expect(found({ scratch: [{ ...place, barred }] })[0]).toMatch(/^warning scratch: by the mode of \/ .*uid 64055/);
    const write = { failed: 'cannot make scratch images in /s: read-only', hint: null };
    expect(found({ scratch: [{ ...place, write }] })[0]).toMatch(/^error scratch: cannot make .*--fleece-dir/);
  });

  it('that is only for the socket needs no room', () => {
    expect(found({ scratch: [{ ...place, need: 0, space: { free: 0, network: false } }] })).toEqual([]);
  });
});

describe('the folder of overlays that track', () => {
  const space = { folder: '/o', held: 3 * MiB, free: 4 * MiB, inMemory: false };

  it('is warned of where it is in memory', () => {
    expect(found({ overlays: [{ ...space, inMemory: true }] })).toEqual([
      expect.stringMatching(/^warning overlays: .*in memory in \/o: when the host restarts.* consolidate-source$/),
      expect.stringMatching(/^info overlays: /),
    ]);
  });

  it('is warned of where backups are', () => {
    const overlaysInTarget = [{ failed: 'the folder of the overlays, /o, is inside of the target /', hint: null }];
    expect(found({ overlays: [space], overlaysInTarget })).toEqual([
      expect.stringMatching(/^warning overlays: .*inside of the target .* another --overlay-dir.* consolidate-source$/),
      expect.stringMatching(/^info overlays: /),
    ]);
  });

  it('may hold what a disk needs that is attached no more, which nothing removes', () => {
    const detached = {
      overlay: '/o/a.overlay',
      buildsOn: [],
      image: '/i/a.raw',
      atNextStart: false,
      imageInUse: false,
    };
    expect(found({ detachedOverlays: [detached] })).toEqual([
      expect.stringMatching(
        /^warning overlays: \/o\/a.overlay holds what the guest wrote to a disk that is attached no more.* \/i\/a.raw lacks -> .*virsh attach-disk \S+ \/o\/a.overlay TARGET .*Nothing removes it/,
      ),
    ]);
    expect(found({ detachedOverlays: [{ ...detached, atNextStart: true }] })).toEqual([
      expect.stringMatching(/^info overlays: .*the next start of the domain attaches it again -> Keep it/),
    ]);
    expect(found({ detachedOverlays: [{ ...detached, imageInUse: true }] })).toEqual([
      expect.stringMatching(
        /^warning overlays: \/o\/a.overlay is above no disk, and \/i\/a.raw is in use without it.* -> Attach no disk by it/,
      ),
    ]);
  });

  it('is told of, and warned of where as much again does not fit', () => {
    expect(found({ overlays: [space] })).toEqual([
      'info overlays: the overlays in /o hold 3.0 MiB since the last run, and 4.0 MiB are free there -> null',
    ]);
    expect(found({ overlays: [{ ...space, free: space.held - 1 }] })).toEqual([
      expect.stringMatching(/^warning overlays: .*stands still -> Run the backup now.* consolidate-source$/),
    ]);
    expect(found({ overlays: { failed: 'it hangs', hint: null } })).toEqual([
      expect.stringMatching(/ overlays: it hangs/),
    ]);
  });

  it('of a disk that they track nothing is said of what libvirt could not track', () => {
    const cannotTrack = 'a raw disk';
    const name = `qmpbackup-${TARGET_ID}-vda-0123456789ab.overlay`;
    const overlays = [{ name, path: `/o/${name}`, depth: 0 }];
    expect(found({ state: vmState([disk({ cannotTrack })]) }).join()).toContain(cannotTrack);
    expect(found({ state: vmState([disk({ cannotTrack, overlays })]) }).join()).not.toContain(cannotTrack);
  });
});
