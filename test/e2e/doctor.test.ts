import { chmod, chown, mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.js';
import { MiB } from '../support/builders.js';
import { expectCli, qmpbackup } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { FakeAgent } from '../support/fake-agent.js';
import { write } from '../support/lab/guest-writes.js';
import { leavingNoTrace } from '../support/refusal.js';
import { startBackup, startRun, untilCopying } from '../support/running-backup.js';
import { afterTest, labDir, scenario, type Scenario } from '../support/scenario.js';
import { imagesIn } from '../support/target-files.js';

const ofVm = (lab: Scenario, ...more: string[]): string[] => ['--socket', lab.vm.socket, ...more, 'doctor'];
const ofAll = (lab: Scenario): string[] => [...ofVm(lab), '--target', lab.target];

describe('doctor', () => {
  it('finds nothing wrong with a healthy VM and target, and changes nothing', async () => {
    const lab = await scenario();
    await leavingNoTrace(lab, async () => {
      const { stdout } = await expectCli(0, ofAll(lab));
      expect(stdout).toMatch(/^info .*made by the first backup$/m);
      expect(stdout).toContain('nothing stands in the way of a backup');
    });
    await lab.backup('full');
    await leavingNoTrace(lab, async () => {
      const { stdout } = await expectCli(0, ofAll(lab));
      expect(stdout).toMatch(/^info {5}d1: the next backup is INC: changes since FULL-/m);
      expect(stdout).toMatch(/^info {5}VM: the next backup goes (by|without) fleecing: /m);
      await expectCli(0, ['doctor', '--target', lab.target]);
      const json = (await expectCli(0, ['--json', ...ofAll(lab), '--monthly'])).json<{ facts: object }>();
      expect(json.facts).toMatchObject({ vm: { state: { machine: { name: 'vm' } } }, target: { exists: false } });
    });
    expect((await lab.backup('inc')).point.level).toBe('inc');
    await expectCli(2, ['doctor']);
  });

  it('tells what is worse than expected of disks, jobs, bitmaps and chains', async () => {
    const lab = await scenario([{ id: 'd1' }, { id: 'old', compat: '0.10' }, { id: 'raw', format: 'raw' }]);
    await lab.backup('full', '--include', 'd1');
    await lab.vm.control.execute('block-dirty-bitmap-add', { node: await nodeOf(lab, 'd1'), name: 'theirs' });
    const [full] = await imagesIn(join(lab.target, 'd1'));
    await writeFile(join(lab.target, 'd1', full!), 'no image');
    await leavingNoTrace(lab, async () => {
      const { stdout } = await expectCli(0, ofAll(lab));
      expect(stdout).toMatch(/^warning {2}old: qcow2 version 2/m);
      expect(stdout).toMatch(/^warning {2}raw: a raw image stores no bitmap/m);
      expect(stdout).toMatch(/^warning {2}target: d1\/FULL-\d+\.qcow2 cannot be built on/m);
      expect(stdout).toMatch(/^warning {2}d1: the next backup is FULL: its earlier backup cannot be built on/m);
      expect(stdout).toMatch(/^info {5}d1: bitmaps of others are left alone: theirs$/m);
    });
    await lab.vm.kill();
    const { stdout } = await expectCli(1, ofAll(lab));
    expect(stdout).toMatch(/^error {4}VM: cannot connect to .* -> /m);
    expect(stdout).toMatch(/^info {5}target: .*: 1 point$/m);
  });

  it('tells of a run that died and repairs nothing', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 0, length: MiB, pattern: 1 });
    await crashCli({ when: 'before', call: 'rename', matches: /catalog\.json$/ }, [
      ...['--socket', lab.vm.socket, 'backup', '--level', 'inc', '--target', lab.target],
    ]);
    expect((await expectCli(0, ofAll(lab))).stdout).toMatch(/^warning {2}target: a run that died .* steps of repair/m);
    expect((await expectCli(0, ofVm(lab))).stdout).toMatch(/^warning {2}VM: a run that died left jobs/m);
    expect(await readdir(lab.target)).toContain('run.json');
    await lab.backup('inc');
    await lab.expectChainEqualsDisks();
  });

  it('says who holds the VM, and goes on without the monitor and the agent', async () => {
    const lab = await scenario();
    await lab.backup('full');
    await write(lab.vm, 'd1', { offset: 0, length: 4 * MiB, pattern: 1 });
    const agent = await FakeAgent.start();
    afterTest(() => agent.stopListening());
    const { path } = agent.endpoint as { path: string };
    const run = startBackup(lab, 'inc', '--speed-limit', '512K', '--include', 'd1');
    await untilCopying(lab, run, 1);
    const { stdout } = await expectCli(1, [...ofVm(lab, '--agent-socket', path), '--target', lab.target]);
    expect(stdout).toMatch(/^error {4}VM: .*is locked by backup into/m);
    expect(stdout).toMatch(/^error {4}target: .*is locked by backup of/m);
    expect(stdout).toMatch(/^info {5}target: .*: 1 point$/m);
    expect(agent.received).toEqual([]);
    expect(run.running()).toBe(true);
    run.kill('SIGTERM');
    await run.ended;

    const other = await QmpClient.connect({ kind: 'unix', path: lab.vm.socket });
    const held = await expectCli(1, ofAll(lab));
    expect(held.stdout).toMatch(/^error {4}VM: .*another client probably holds the monitor/m);
    await other.close();
    await expectCli(0, ofAll(lab));
  });

  it('refuses the target of another VM and a catalog that is damaged, as a finding', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.backup('full');
    const stranger = await scenario([{ id: 'd1' }], { name: 'stranger' });
    const args = [...ofVm(stranger), '--target', lab.target];
    expect((await expectCli(1, args)).stdout).toMatch(/^error {4}target: it belongs to VM vm/m);
    await writeFile(join(lab.target, 'catalog.json'), '{');
    expect((await expectCli(1, ofAll(lab))).stdout).toMatch(/^error {4}target: .*catalog.json is damaged/m);
  });

  it('asks the agent and never freezes', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    const agent = await FakeAgent.start();
    afterTest(() => agent.stopListening());
    const args = ofVm(lab, '--agent-socket', (agent.endpoint as { path: string }).path);
    expect((await expectCli(0, args)).stdout).toMatch(/^info {5}agent: .*can freeze the guest/m);
    agent.frozen = true;
    expect((await expectCli(1, args)).stdout).toMatch(/^error {4}agent: the guest is frozen/m);
    expect(agent.frozen).toBe(true);
    expect(agent.count('guest-fsfreeze-freeze') + agent.count('guest-fsfreeze-thaw')).toBe(0);
    await agent.stopListening();
    expect((await expectCli(0, args)).stdout).toMatch(/^warning {2}agent: no guest agent/m);
  });

  it("finds a target that QEMU cannot write to, in QEMU's words", async () => {
    const bin = await labDir();
    const wrapper = join(bin, 'qemu');
    const ids = '--reuid 65534 --regid 65534 --clear-groups --pdeathsig KILL';
    await writeFile(wrapper, `#!/bin/sh\nexec setpriv ${ids} qemu-system-x86_64 "$@"\n`, { mode: 0o755 });
    const dir = await labDir();
    await chmod(dir, 0o755);
    await mkdir(join(dir, 'vm'));
    await chown(join(dir, 'vm'), 65534, 65534);
    const lab = await scenario([], { program: wrapper, dir: join(dir, 'vm') });
    const closed = join(bin, 'closed');
    await mkdir(closed, { mode: 0o700 });
    const { stdout } = await expectCli(1, [...ofVm(lab), '--target', closed]);
    expect(stdout).toMatch(
      /^error {4}target: QEMU \(user nobody, pid \d+\) cannot write .*Permission denied -> .*AppArmor/m,
    );
    expect(await readdir(closed)).toEqual([]);
  });

  it('leaves neither file nor node when it is interrupted', async () => {
    const lab = await scenario([{ id: 'd1' }]);
    await lab.backup('full');
    const before = await readdir(lab.target, { recursive: true });
    for (let delay = 100; delay <= 700; delay += 100) {
      const run = startRun(ofAll(lab));
      setTimeout(() => run.kill('SIGINT'), delay);
      const { exitCode, signal } = await run.ended;
      expect([0, 130, 'SIGINT']).toContain(exitCode ?? signal);
      expect(await readdir(lab.target, { recursive: true })).toEqual(before);
      await lab.expectNothingLeft(1);
    }
  });
});

async function nodeOf(lab: Scenario, device: string): Promise<string> {
  const { stdout } = await qmpbackup(['--json', '--socket', lab.vm.socket, 'info']);
  const { vm } = JSON.parse(stdout) as { vm: { disks: { device: string; node: string }[] } };
  return vm.disks.find((disk) => disk.device === device)!.node;
}
