/** Words of libvirt 9.0. */
import { describe, expect, it } from 'vitest';
import {
  DomainNotFound,
  isOutcomeUnknown,
  LibvirtUnreachable,
  VirshError,
  virshFailure,
} from '../../../src/libvirt/errors.js';
import { hintOfCommandLine, hintOfPath } from '../../../src/libvirt/monitor.js';

const failure = (stderr: string): Error =>
  virshFailure({ command: 'backup-begin', domain: 'web', uri: 'qemu:///system' }, stderr);

describe('virshFailure', () => {
  it.each([
    ['cannot acquire state change lock (held by monitor=remoteDispatchDomainBackupBegin)', 'job-active'],
    ['Requested operation is not valid: no job is active on the domain', 'no-job'],
    ['Domain backup job id not found: no domain backup job present', 'no-job'],
    ['invalid argument: disk vdb does not have an active block job', 'no-job'],
    [
      "internal error: unable to execute QEMU command 'block-job-set-speed': Job 'backup-vda-libvirt-1-format' in state 'concluded' cannot accept command verb 'set-speed'",
      'no-job',
    ],
    ['internal error: backup job data missing', 'job-changing'],
    ['Requested operation is not valid: domain is not running', 'not-running'],
    ['Operation not supported: cannot perform disk backup for inactive domain', 'not-running'],
    ['Operation not supported: cannot delete checkpoint for inactive domain', 'not-running'],
    ["Domain checkpoint not found: no domain checkpoint with matching name 'k1'", 'no-checkpoint'],
    ["Domain checkpoint not found: Checkpoint 'kx' for incremental backup of disk 'vda' not found", 'no-checkpoint'],
    ['operation failed: domain moment k4 already exists', 'checkpoint-exists'],
    ["internal error: unable to execute QEMU command 'transaction': Bitmap already exists: k7", 'checkpoint-exists'],
    ["invalid argument: store '/s/vda' for backup of 'vda' exists", 'file-exists'],
    ['Guest agent is not responding: QEMU guest agent is not connected', 'no-agent'],
    ['argument unsupported: QEMU guest agent is not configured', 'no-agent'],
    ['Command guest-fsfreeze-freeze has been disabled: the agent is in frozen state', 'already-frozen'],
    ['unsupported configuration: checkpoint for disk vdc unsupported for storage type raw', 'other'],
  ])('%s: %s', (words, reason) => {
    const error = failure(`error: Failed\nerror: ${words}\n\n`);
    expect(error).toBeInstanceOf(VirshError);
    expect(error).toMatchObject({ reason, words: `Failed; ${words}` });
    expect(error.message).toContain(words);
  });

  it.each([
    ["checkpoint inconsistent: missing or broken bitmap 'm1' for disk 'vdb'", 'm1', 'vdb'],
    ["internal error: bitmap 'k3' not found in backing chain of 'vda'", 'k3', 'vda'],
  ])('%s: which disk', (words, checkpoint, target) => {
    expect(failure(`error: ${words}`)).toMatchObject({
      reason: 'bitmap-broken',
      brokenBitmap: { checkpoint, target },
    });
  });

  it('a connection that failed, a domain that is not there, and silence', () => {
    const down =
      "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/x': Connection refused\n";
    expect(failure(down)).toBeInstanceOf(LibvirtUnreachable);
    expect(failure(down).message).toContain('Connection refused');
    const hung =
      'error: Disconnected from qemu:///system due to keepalive timeout\nerror: internal error: connection closed due to keepalive timeout\n';
    expect(failure(hung)).toBeInstanceOf(LibvirtUnreachable);
    expect(isOutcomeUnknown(failure(hung))).toBe(true);
    expect(isOutcomeUnknown(failure('error: no job is active'))).toBe(false);
    expect(failure("error: failed to get domain 'web'")).toBeInstanceOf(DomainNotFound);
    expect(failure("error: failed to get domain 'web'")).toMatchObject({
      hint: expect.stringMatching(/^virsh --connect qemu:\/\/\/system list --all shows/) as string,
    });
    expect(failure('')).toMatchObject({ words: 'it said nothing', reason: 'other' });
  });
});

describe('sockets of libvirt', () => {
  it('of guest agents are known by their path', () => {
    for (const folder of ['/var/lib/libvirt/qemu/channel/target/domain-3-web', '/run/libvirt/qemu/channel/3-web']) {
      expect(hintOfPath(`${folder}/org.qemu.guest_agent.0`)).toEqual({ name: 'web', whole: true });
    }
    expect(hintOfPath('/run/vm/org.qemu.guest_agent.0')).toBeUndefined();
  });

  it('of monitors are known by their path', () => {
    const path = '/var/lib/libvirt/qemu/domain-15-we ird & <"\'ü/monitor.sock';
    expect(hintOfPath(path)).toEqual({ name: `we ird & <"'ü`, whole: true });
    expect(hintOfPath('/run/user/0/libvirt/qemu/lib/domain-1-a-b/monitor.sock')).toMatchObject({ name: 'a-b' });
    const cut = '/var/lib/libvirt/qemu/domain-1-a-name-of-twenty-cha/monitor.sock';
    expect(hintOfPath(cut)).toEqual({ name: 'a-name-of-twenty-cha', whole: false });
    expect(hintOfPath('/run/vm/monitor.sock')).toBeUndefined();
    expect(hintOfPath('/var/lib/libvirt/qemu/domain-1-a/agent.sock')).toBeUndefined();
  });

  it("are known by QEMU's command line, commas in the name too", () => {
    const uuid = '524b55ae-74ac-4aa7-b459-73adb9687ef4';
    const key = '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/x/master-key.aes"}';
    const args = [
      '/usr/bin/qemu-system-x86_64',
      '-name',
      'guest=a,,b,debug-threads=on',
      '-S',
      '-object',
      key,
      '-uuid',
      uuid,
    ];
    expect(hintOfCommandLine(args)).toEqual({ name: 'a,b', whole: true });
    expect(hintOfCommandLine(args.filter((arg) => arg !== key))).toBeUndefined();
    expect(hintOfCommandLine(['qemu', '-name', 'a', '-uuid', uuid, '-object', key])).toBeUndefined();
    expect(hintOfCommandLine([])).toBeUndefined();
  });
});
