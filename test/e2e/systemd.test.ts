import { readdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { execa } from 'execa';
import { beforeEach, describe, expect, it } from 'vitest';
import { run as qmp } from '../../src/qmp/commands.js';
import { MiB } from '../support/builders.js';
import { expectCli } from '../support/cli.js';
import { checkFs, checkWrittenFiles } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { type HeldRelay, startRelay } from '../support/qmp-relay.js';
import { afterTest, labDir } from '../support/scenario.js';
import { startSystemd, type SystemdLab } from '../support/systemd-lab.js';
import { straysOf } from '../support/target-files.js';

/**
 * The unit as a real systemd runs it: installed by the Debian package, with a real guest, and stopped at the worst moment. The VM is
 * outside of what systemd is the first process of, as one that somebody else has started.
 */
const UNIT = 'qmpbackup.service';

let dir: string;
let systemd: SystemdLab;
let vm: GuestVm;
const target = (): string => join(dir, 'backups/web1');

beforeEach(async () => {
  dir = await labDir();
  const disk = { id: 'd1', file: join(dir, 'd1.qcow2') };
  await makeExt4({ ...disk, label: 'DATA1', format: 'qcow2', size: 64 * MiB });
  const guest = startQemu({ dir: join(dir, 'vm'), name: 'web1', disks: [disk], guest: { workload: ['writer'] } });
  const { stdout } = await execa('./scripts/build-deb');
  const deb = /'(build\/\S+\.deb)'/.exec(stdout)?.[1] ?? '';
  await execa('cp', [deb, dir]);
  vm = await guest;
  afterTest(() => vm.kill());
  systemd = await startSystemd(dir);
  afterTest(() => systemd.close());
  // In an image of a container nothing may be started or stopped by packages.
  await systemd.inside(['rm', '-f', '/usr/sbin/policy-rc.d']);
  // Node and qemu-img are there by other ways than packages.
  await systemd.inside(['dpkg', '--force-depends', '--install', join(dir, basename(deb))]);
  await configure(vm.socket);
});

async function configure(socket: string): Promise<void> {
  const [config, drop] = ['/etc/qmpbackup/config.yaml', '/etc/systemd/system/qmpbackup.service.d/local.conf'];
  await write(
    config,
    `
defaults: { target: "${dir}/backups/{vm}", quiesce: require }
vms: { web1: { socket: ${socket}, agent-socket: ${vm.agentSocket} } }
`,
  );
  await write('/etc/qmpbackup/secret', 'credential-of-the-test');
  // No journal runs here.
  await write(
    drop,
    `[Service]\nLoadCredential=secret:/etc/qmpbackup/secret\nStandardOutput=append:${dir}/log\nStandardError=append:${dir}/log\n`,
  );
  await systemd.systemctl('daemon-reload');
}

async function write(path: string, text: string): Promise<void> {
  const copy = join(dir, basename(path));
  await writeFile(copy, text);
  await systemd.inside(['install', '-D', '-m', '600', copy, path]);
}

async function property(name: string): Promise<string> {
  return (await systemd.systemctl('show', '--value', '--property', name, UNIT)).trim();
}

/** As the process itself reads it: only its own mount namespace has it. */
async function credentialOf(pid: string, name: string): Promise<string> {
  const folder = `$(tr '\\0' '\\n' </proc/${pid}/environ | sed -n 's/^CREDENTIALS_DIRECTORY=//p')`;
  return (await systemd.inside(['sh', '-c', `cat "/proc/${pid}/root${folder}/${name}"`])).stdout;
}

/** Starts a run and returns when the transaction of its backup is held up: the guest is frozen now. */
async function startFrozen(): Promise<HeldRelay> {
  const relay = await startRelay(join(dir, 'relay.sock'), vm.socket);
  await configure(relay.socket);
  await systemd.systemctl('start', '--no-block', UNIT);
  const ended = expect.poll(() => property('ActiveState')).not.toBe('activating');
  await Promise.race([relay.held, ended.then(async () => Promise.reject(new Error(await log())))]);
  expect(await vm.guest.isFrozen('/mnt/d1')).toBe(true);
  return relay;
}

function log(): Promise<string> {
  return readFile(join(dir, 'log'), 'utf8');
}

/** All that a run may leave, in QEMU, in the target and of processes; and that the guest writes. */
async function expectNothingLeft(): Promise<void> {
  await vm.guest.untilWritten('/mnt/d1');
  await expect.poll(() => vm.control.execute('query-jobs')).toEqual([]);
  await expect
    .poll(async () => (await systemd.inside(['pgrep', '-f', 'qmpbackup'], { allowed: [0, 1] })).stdout)
    .toBe('');
  expect(straysOf(await readdir(target(), { recursive: true }))).toEqual([]);
}

/** The next run makes an increment with all that the guest has written. */
async function expectNextIsIncrement(number: number): Promise<void> {
  await configure(vm.socket);
  await systemd.systemctl('start', UNIT);
  expect(await log()).toContain(`:${number} in ${target()}, INC, filesystem`);
  const output = join(dir, `restored-${number}`);
  await expectCli(0, ['restore', '--target', target(), '--output', output]);
  await checkFs(join(output, 'd1.qcow2'));
  expect((await checkWrittenFiles(join(output, 'd1.qcow2'))).matched).toBeGreaterThan(0);
  const nodes = await qmp(vm.control, 'query-named-block-nodes', { flat: true });
  const bitmaps = nodes.flatMap((node) => (node['dirty-bitmaps'] ?? []).map(({ name = '' }) => name));
  // Of the latest file and of the FULL.
  expect(bitmaps.filter((name) => name.startsWith('qmpbackup-'))).toHaveLength(2);
}

describe('under a real systemd', () => {
  it('backs up, has its credentials, thaws a guest when it is stopped or killed, and is purged without a trace', async () => {
    await systemd.systemctl('enable', '--now', 'qmpbackup.timer');
    expect(await systemd.systemctl('list-timers', '--all')).toMatch(/qmpbackup\.timer\s+qmpbackup\.service/);
    await systemd.systemctl('start', UNIT);
    expect([await property('Result'), await property('ExecMainStatus')]).toEqual(['success', '0']);
    expect(await log()).toMatch(/:0 in .*FULL, filesystem/);

    const stopped = await startFrozen();
    expect(await credentialOf(await property('MainPID'), 'secret')).toBe('credential-of-the-test');
    const stop = systemd.systemctl('stop', UNIT);
    await vm.guest.untilWritten('/mnt/d1');
    stopped.letGo();
    await stop;
    await stopped.close();
    expect(await property('ActiveState')).toMatch(/^(failed|inactive)$/);
    await expectNothingLeft();
    await expectNextIsIncrement(1);

    const killed = await startFrozen();
    // As systemd does where a run does not end in time, and the kernel where memory runs out.
    await systemd.systemctl('kill', '--kill-whom', 'main', '--signal', 'KILL', UNIT);
    await vm.guest.untilWritten('/mnt/d1');
    killed.letGo();
    await killed.close();
    await expectNextIsIncrement(2);
    await expectNothingLeft();

    await systemd.inside(['dpkg', '--purge', 'qmpbackup']);
    expect(await systemd.systemctl('list-timers', '--all')).not.toContain('qmpbackup');
    // The administrator's; and what other tests of this host have there.
    const kept = ['/etc/qmpbackup', '/etc/systemd/system/qmpbackup.service.d', '/var/tmp'];
    const left = await systemd.inside([
      ...['find', '/etc', '/usr', '/var', '/run', '/lib/systemd', '-xdev'],
      ...kept.flatMap((path) => ['-path', path, '-prune', '-o']),
      ...['-name', '*qmpbackup*', '-print'],
    ]);
    expect(left.stdout).toBe('');
  });
});
