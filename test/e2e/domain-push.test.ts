import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { expectCli, startCli } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { crashCli } from '../support/crash-point.js';
import { type DomainScenario, domainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { discard, write, writeZeroes } from '../support/lab/guest-writes.js';
import { useLibvirt } from '../support/use-libvirt.js';

// Backups of a libvirt domain that its own QEMU writes: the same points, in the same chains, as those that are pulled.

const MiB = 1024 * 1024;
const PUSH = ['--method', 'push'] as const;

const lab = useLibvirt();

describe('a push', () => {
  it('goes into one chain with pulls, and holds exactly what changed, zeroed and discarded areas as zeros', async () => {
    const scenario = await domainScenario(lab);
    const { domain } = scenario;
    await write(domain, 'vda', { offset: 0, length: 8 * MiB, pattern: 0x11 });
    await write(domain, 'vdb', { offset: MiB, length: 3 * MiB, pattern: 0x12 });
    expect((await scenario.backup('auto', ...PUSH)).point).toMatchObject({ number: 0, level: 'full' });

    await writeZeroes(domain, 'vda', { offset: MiB, length: 2 * MiB });
    await discard(domain, 'vda', { offset: 4 * MiB, length: MiB });
    await writeZeroes(domain, 'vdb', { offset: MiB + 4096, length: 4096 });
    const inc = await scenario.backup('inc', ...PUSH);
    expect(inc.point).toMatchObject({ level: 'inc', disks: [{ changed: 3 * MiB }, { changed: 65536 }] });
    await scenario.expectChainEqualsDisks();

    await writeBothDisks(scenario, 20, 0x41);
    await scenario.backup('inc');
    await writeBothDisks(scenario, 22, 0x42);
    await scenario.backup('inc', ...PUSH);
    await scenario.expectChainEqualsDisks();
    const nothing = await scenario.backup('inc', ...PUSH);
    expect(nothing.point).toMatchObject({ level: 'inc', disks: [{ changed: 0 }, { changed: 0 }] });
    await scenario.expectNothingLeft(2);
  });

  it('restores to the same bytes as a pull of a domain that stood still', async () => {
    const scenario = await domainWithFull(lab);
    const pushed = `${scenario.target}-pushed`;
    const push = (level: string) =>
      expectCli(0, [...scenario.vm, 'backup', '--level', level, ...PUSH, '--target', pushed]);
    await push('full');
    await writeBothDisks(scenario, 20, 0x41);
    await discard(scenario.domain, 'vda', { offset: MiB, length: MiB });
    await lab.virsh(['suspend', scenario.domain.uuid]);
    await scenario.backup('inc');
    await push('inc');
    const restored: string[] = [];
    for (const target of [scenario.target, pushed]) {
      const output = join(lab.dir, `same-${restored.length}`);
      await expectCli(0, ['restore', '--target', target, '--output', output]);
      restored.push(output);
    }
    const [a = '', b = ''] = restored;
    for (const disk of ['vda.qcow2', 'vdb.qcow2']) await compareImages(join(a, disk), join(b, disk));
  });

  it('is refused what only a pull can keep, and a VM that libvirt does not run', async () => {
    const { vm } = await domainScenario(lab);
    const never = ['--target', join(lab.dir, 'never-made')];
    const verify = await expectCli(2, [...vm, 'backup', '--level', 'full', ...PUSH, '--verify', ...never]);
    expect(verify.stderr).toContain('--verify is not possible with --method push');
    for (const options of [[...PUSH], ['--kill-job']]) {
      const { stderr } = await expectCli(2, ['--socket', '/run/x', 'backup', '--level', 'full', ...options, ...never]);
      expect(stderr).toContain('is for libvirt domains');
    }
    expect(existsSync(join(lab.dir, 'never-made'))).toBe(false);
  });
});

describe('a push that does not come to its end', () => {
  /** Its first disk has a change that takes a while to copy and no space. */
  const large = async (): Promise<DomainScenario> => {
    const scenario = await domainScenario(lab);
    await lab.virsh(['blockresize', scenario.domain.uuid, 'vda', '16G']);
    await write(scenario.domain, 'vda', { offset: 0, length: 8 * MiB, pattern: 0x11 });
    await scenario.backup('auto');
    return scenario;
  };
  const bigChange = async ({ domain }: DomainScenario): Promise<void> => {
    for (let gib = 0; gib < 16; gib += 2) {
      const line = `qemu-io ${domain.disk('vda').hmpReference} "write -z ${gib}G 2047M"`;
      await lab.virsh(['qemu-monitor-command', domain.uuid, '--hmp', line]);
    }
  };
  const pushInc = ({ vm, target }: DomainScenario): string[] => [
    ...[...vm, 'backup', '--level', 'inc', ...PUSH, '--target', target],
  ];
  /** A run in the middle. libvirt begins a push without its limit, so on a busy machine one may come to its end. */
  const slowInc = async (scenario: DomainScenario): Promise<{ readonly run: ReturnType<typeof startCli> }> => {
    const info = ['blockjob', scenario.domain.uuid, 'vda', '--info', '--raw', '--bytes'];
    for (;;) {
      await bigChange(scenario);
      const run = startCli([...pushInc(scenario), '--speed-limit', '1M']);
      let ended = false;
      void run.then(() => (ended = true));
      while (!ended) {
        if (/bandwidth=1048576/.test((await lab.virsh(info, { allowed: [0, 1] })).stdout)) return { run };
        await sleep(50);
      }
      expect((await run).exitCode).toBe(0);
    }
  };

  it('ended by somebody, by SIGTERM, by SIGKILL, with its QEMU: nothing is left or lost, and a chain goes on', async () => {
    const scenario = await large();
    const { domain } = scenario;

    const { run: aborted } = await slowInc(scenario);
    await lab.virsh(['domjobabort', domain.uuid]);
    expect(await aborted).toMatchObject({
      exitCode: 1,
      stderr: expect.stringContaining('somebody ended its job') as unknown,
    });

    const { run: terminated } = await slowInc(scenario);
    terminated.kill('SIGTERM');
    expect((await terminated).exitCode).toBe(143);
    await scenario.expectNothingLeft(2);

    // Its job goes on without it, and is known to be ours by what it writes, also by a run into another target.
    await crashCli({ when: 'after', call: 'spawn', matches: /backup-begin/ }, pushInc(scenario));
    await lab.virsh(['blockjob', domain.uuid, 'vda', '--bandwidth', '1'], { allowed: [0, 1] });
    const other = ['backup', '--level', 'copy', '--include', 'vdb', '--target', `${scenario.target}-other`];
    await expectCli(0, [...scenario.vm, ...other]);
    expect((await lab.virsh(['domjobinfo', domain.uuid])).stdout).toMatch(/None/);

    await writeBothDisks(scenario, 20, 0x21);
    const { number } = (await scenario.backup('inc', ...PUSH)).point;
    await crashCli({ when: 'before', call: 'rename', matches: /catalog\.json$/ }, pushInc(scenario));
    await writeBothDisks(scenario, 22, 0x22);
    expect((await scenario.backup('inc', ...PUSH)).point).toMatchObject({ number: number + 1, level: 'inc' });
    await scenario.expectChainEqualsDisks();

    const { run: killed } = await slowInc(scenario);
    await domain.kill();
    expect((await killed).exitCode).toBe(1);
    await domain.start();
    expect(levelsOf(await scenario.backup('auto', ...PUSH))).toEqual([
      'vda inc by comparison',
      'vdb inc by comparison',
    ]);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });
});

describe('--kill-job', () => {
  it('ends a backup job of somebody else, says so, and the backup goes on; without it the refusal names it', async () => {
    const scenario = await domainWithFull(lab);
    const { domain, vm, target } = scenario;
    const file = join(lab.dir, 'foreign.xml');
    const disks = `<disks><disk name='vda' type='file'><scratch file='${join(lab.dir, 'foreign.scr')}'/></disk></disks>`;
    const server = `<server transport='unix' socket='${join(lab.dir, 'foreign.sock')}'/>`;
    await writeFile(file, `<domainbackup mode='pull'>${server}${disks}</domainbackup>`);
    await lab.virsh(['backup-begin', domain.uuid, file]);
    const inc = [...vm, 'backup', '--level', 'inc', '--target', target];
    expect((await expectCli(11, inc)).stderr).toContain('--kill-job');
    await expectCli(0, [...inc, '--kill-job', '--dry-run']);
    expect((await lab.virsh(['domjobinfo', domain.uuid])).stdout).toContain('Backup');
    const { stderr } = await expectCli(0, [...inc, '--kill-job']);
    expect(stderr).toMatch(/warning: --kill-job: ended a pull backup of vda \(\S+foreign\.sock/);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });
});
