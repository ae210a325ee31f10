import { describe, expect, it } from 'vitest';
import { isForeignBackup, refuseForeignJob, vmStateOf } from '../../../../src/backends/libvirt/session.js';
import { isOurJob } from '../../../../src/core/names.js';
import type { RunningBackup } from '../../../../src/libvirt/backup-xml.js';
import type { DomainState } from '../../../../src/libvirt/domain-state.js';
import { parseDomain } from '../../../../src/libvirt/domain-xml.js';
import { parseJobInfo } from '../../../../src/libvirt/job-info.js';

const definition = parseDomain('<domain type="kvm"><name>web</name><uuid>a</uuid></domain>');

function busyWith(operation: number, backup: RunningBackup | null): DomainState {
  const job = parseJobInfo(`Job type: 2\noperation: ${operation}\ntime_elapsed: 5\n`);
  const state = { state: 'running', stateReason: '', active: true, xml: '' };
  return {
    ...definition,
    ...state,
    sizes: new Map(),
    unsized: new Map(),
    checkpoints: [],
    job,
    backup,
    blockJobs: new Map(),
    connect: null,
  };
}

function backupInto(mode: 'pull' | 'push', ...files: (string | null)[]): RunningBackup {
  const disks = files.map((file, index) => ({
    ...{ target: `vd${index}`, since: null, exportName: null, exportBitmap: null },
    file,
  }));
  return { mode, socket: null, disks };
}

const view = (domain: DomainState) => ({ domain, state: vmStateOf(domain) });

describe('whose backup job it is', () => {
  it.each([
    ['a pull by its scratch folder', backupInto('pull', '/i/qmpbackup-0123456789ab.scratch/0.qcow2'), true],
    ['a push by the images it makes', backupInto('push', '/b/vda/INC-1795297013.qcow2.partial'), true],
    ['a push of others', backupInto('push', '/b/vda.qcow2'), false],
    ['a push of others into a sealed name', backupInto('push', '/b/vda/INC-1795297013.qcow2'), false],
    ['a pull of others', backupInto('pull', '/b/vda/INC-1795297013.qcow2.partial'), false],
    ['one without files', backupInto('pull', null), false],
  ])('%s', (_, backup, ours) => {
    const domain = busyWith(9, backup);
    expect(vmStateOf(domain).jobs.map(isOurJob)).toEqual([ours]);
    expect(isForeignBackup(view(domain))).toBe(!ours);
  });
});

describe('refuseForeignJob', () => {
  const refusal = (domain: DomainState, mayEndBackups: boolean): unknown => {
    try {
      refuseForeignJob(view(domain), { mayEndBackups });
      return null;
    } catch (error) {
      return error;
    }
  };

  it('names --kill-job for a backup of others, and lets it pass with that option', () => {
    const domain = busyWith(9, backupInto('push', '/b/vda.qcow2'));
    expect(refusal(domain, false)).toMatchObject({
      code: 'locked',
      message: 'the domain web is busy with a push backup of somebody else',
      hint: expect.stringContaining('--kill-job') as unknown,
    });
    expect(refusal(domain, true)).toBeNull();
  });

  it.each([
    [5, 'an outgoing migration'],
    [2, 'a save'],
    [8, 'a memory dump'],
    [77, 'a job (libvirt operation 77)'],
  ])('refuses operation %i by its name, with the option too', (operation, name) => {
    const expected = { message: `the domain web is busy with ${name} of somebody else` };
    expect(refusal(busyWith(operation, null), false)).toMatchObject(expected);
    expect(refusal(busyWith(operation, null), true)).toMatchObject(expected);
  });

  it('lets a job of ours pass: the repair ends it', () => {
    const own = backupInto('push', '/b/vda/FULL-1.qcow2.partial', '/b/vdb/FULL-1.qcow2.partial');
    expect(refusal(busyWith(9, own), false)).toBeNull();
  });
});
