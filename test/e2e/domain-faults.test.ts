import { readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { expectCli, startCli } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import {
  type DomainScenario,
  domainScenario,
  domainWithFull,
  guardsOf,
  ourBitmapsIn,
  writeBothDisks,
} from '../support/domain-scenario.js';
import { onceBefore } from '../support/first-in-path.js';
import { write } from '../support/lab/guest-writes.js';
import { shareOf } from '../support/moments.js';
import { mountHanging, mountSmall } from '../support/mounts.js';
import { patient } from '../support/patience.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;

const lab = useLibvirt();

describe('SIGKILL at a step', () => {
  const steps: readonly (CrashPoint & { readonly name: string; readonly sealed?: boolean })[] = [
    { name: 'after the journal', when: 'after', call: 'rename', matches: /run\.json$/ },
    { name: 'while staging', when: 'after', call: 'open', matches: /\.partial/ },
    { name: 'before the backup begins', when: 'before', call: 'spawn', matches: /backup-begin/ },
    { name: 'after the backup began', when: 'after', call: 'spawn', matches: /backup-begin/ },
    { name: 'while it is pulled', when: 'after', call: 'spawn', matches: /^setpriv .*qemu-nbd/ },
    { name: 'before the job ends', when: 'before', call: 'spawn', matches: /domjobabort/ },
    { name: 'after the job ended', when: 'after', call: 'spawn', matches: /domjobabort/ },
    { name: 'before an image has its name', when: 'before', call: 'rename', matches: /INC-\d+\.qcow2$/ },
    { name: 'before the catalog', when: 'before', call: 'rename', matches: /catalog\.json$/ },
    { name: 'after the catalog', when: 'after', call: 'rename', matches: /catalog\.json$/, sealed: true },
    { name: 'after a checkpoint went', when: 'after', call: 'spawn', matches: /checkpoint-delete/, sealed: true },
    { name: 'after the journal went', when: 'after', call: 'rm', matches: /run\.json$/, sealed: true },
  ];

  it.each([
    ['act', 0],
    ['die', 1],
  ] as const)(
    'of an INC, each one in turn on one chain, guards %s: the next run is incremental and loses nothing',
    async (guards, test) => {
      const scenario = await domainWithFull(lab);
      await writeBothDisks(scenario, 60, 0x3f);
      await scenario.backup('inc');
      let number = 2;
      for (const [index, { name, sealed = false, ...step }] of shareOf(steps, test, 2).entries()) {
        try {
          await writeBothDisks(scenario, 10 + 2 * index, 0x40 + index);
          await crashCli({ ...step, guards }, [
            ...scenario.vm,
            'backup',
            '--level',
            'inc',
            '--target',
            scenario.target,
          ]);
          await writeBothDisks(scenario, 11 + 2 * index, 0x80 + index);
          if (sealed) number += 1;
          const { point } = await scenario.backup('inc');
          expect(point).toMatchObject({ number, level: 'inc' });
          await scenario.expectNothingLeft(2);
          number += 1;
        } catch (error) {
          throw new Error(`killed ${name}: ${(error as Error).message}`, { cause: error });
        }
      }
      await scenario.expectChainEqualsDisks();
    },
  );
});

describe('a run that was killed, whose domain was defined anew', () => {
  it.each([
    ['and runs again', false],
    ['and is looked after while it is off', true],
  ])('%s, leaves no bitmap that records for ever', async (_, whileOff) => {
    const scenario = await domainWithFull(lab);
    const { domain, vm, target } = scenario;
    await writeBothDisks(scenario, 20, 0x31);
    const inc = [...vm, 'backup', '--level', 'inc', '--target', target];
    await crashCli({ when: 'after', call: 'spawn', matches: /backup-begin/ }, inc);
    await domain.destroy();
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata']);
    await lab.virsh(['define', join(lab.dir, `${domain.uuid}.xml`)]);
    if (whileOff) {
      const recover = [...vm, 'recover', '--target', target];
      expect((await expectCli(0, [...recover, '--dry-run'])).stdout).toContain('made by a run that died');
      await expectCli(0, recover);
      expect(await ourBitmapsIn(scenario.fileOf('vda'))).toHaveLength(1);
    }
    await domain.start();
    await writeBothDisks(scenario, 22, 0x32);
    expect((await scenario.backup('inc')).point).toMatchObject({ number: 1, level: 'inc' });
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
    await domain.destroy();
    await scenario.expectNoStrayBitmaps();
  });
});

describe('what fails in the middle', () => {
  /** A run that is pulling: slow enough to be met there. */
  const slowInc = (scenario: DomainScenario, options: { readonly detached?: boolean } = {}) =>
    startCli(
      [
        ...[...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target],
        ...['--speed-limit', '2M', '--no-digest'],
      ],
      options,
    );
  const untilPulling = async (scenario: DomainScenario): Promise<void> => {
    for (const until = Date.now() + patient(30_000); Date.now() < until;) {
      const { stdout } = await lab.virsh(['domjobinfo', scenario.domain.uuid], { allowed: [0, 1] });
      if (/Operation:\s+Backup/.test(stdout)) return;
      await sleep(100);
    }
    throw new Error('no job was seen');
  };
  const scratchOf = async (scenario: DomainScenario): Promise<readonly string[]> => {
    const files = await readdir(dirname(scenario.fileOf('vda')), { recursive: true });
    return files.filter((name) => /\.scratch\/./.test(name));
  };
  /** Without another run of ours. */
  const expectJobGone = async (scenario: DomainScenario): Promise<void> => {
    const job = async () => (await lab.virsh(['domjobinfo', scenario.domain.uuid])).stdout;
    await expect.poll(job, { timeout: patient(20_000) }).toMatch(/Job type:\s+None/);
    await expect.poll(() => scratchOf(scenario), { timeout: patient(5_000) }).toEqual([]);
    expect(await scenario.domain.state()).toBe('running');
  };
  const expectIncrementalNext = async (scenario: DomainScenario): Promise<void> => {
    expect((await scenario.backup('inc')).point).toMatchObject({ number: 1, level: 'inc' });
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  };
  const bigChange = async (scenario: DomainScenario): Promise<void> => {
    await write(scenario.domain, 'vda', { offset: 16 * MiB, length: 24 * MiB, pattern: 0x61 });
    await writeBothDisks(scenario, 50, 0x62);
  };

  it('the job is ended by somebody: no point, and the next run is incremental', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(1000);
    await lab.virsh(['domjobabort', scenario.domain.uuid]);
    const { exitCode, stderr } = await run;
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/somebody ended the backup job of the domain.*\n.*no change is lost/);
    expect((await scenario.backup('inc')).point.number).toBe(1);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it.each([
    ['the job is ended', 'domjobabort', /somebody ended the backup job of the domain.*\n.*no change is lost/],
    ['the domain is destroyed', 'destroy', /the domain ended while it was backed up \(shut off \(destroyed\)\)/],
  ])(
    '%s while --verify compares: no point, in the words of libvirt, and the next run is incremental',
    async (...row) => {
      const [, command, words] = row;
      const scenario = await domainWithFull(lab);
      const { vm, target, domain } = scenario;
      await bigChange(scenario);
      await onceBefore('qemu-img', 'compare', `virsh --connect '${lab.uri}' ${command} ${domain.uuid}`);
      const { stderr } = await expectCli(1, [...vm, 'backup', '--level', 'inc', '--verify', '--target', target]);
      expect(stderr).toMatch(words);
      if (command === 'destroy') await domain.start();
      await expectIncrementalNext(scenario);
    },
  );

  it('QEMU is killed: no point counts, and auto goes on by comparison', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(1000);
    await scenario.domain.kill();
    const { exitCode, stderr } = await run;
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/the domain ended while it was backed up \(shut off \(crashed\)\)/);
    await scenario.domain.start();
    expect(levelsOf(await scenario.backup('auto'))).toEqual(['vda inc by comparison', 'vdb inc by comparison']);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('a transient domain ends, and libvirt forgets it: the run says so, and the next one tidies up and is incremental', async () => {
    const scenario = await domainWithFull(lab);
    const { domain } = scenario;
    await bigChange(scenario);
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata']);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(1000);
    await lab.virsh(['destroy', domain.uuid]);
    domain.forget();
    const { exitCode, stderr } = await run;
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/the domain ended during the backup, with its definition.*\n.*no change is lost/);
    await lab.virsh(['define', join(lab.dir, `${domain.uuid}.xml`)]);
    await domain.start();
    expect((await scenario.backup('inc')).point.number).toBe(1);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('libvirtd is killed and started again: the run ends with a point or an error, and nothing is lost', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(500);
    await lab.stopDaemon('kill');
    await sleep(500);
    await lab.startDaemon();
    expect([0, 1]).toContain((await run).exitCode);
    await writeBothDisks(scenario, 52, 0x63);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('SIGTERM ends the run with 143 and undoes it', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(1000);
    run.kill('SIGTERM');
    expect((await run).exitCode).toBe(143);
    await scenario.expectNothingLeft(2);
    expect((await scenario.backup('inc')).point.number).toBe(1);
    await scenario.expectChainEqualsDisks();
  });

  it('the run is killed: its job and scratch images go at once, and the next run is incremental', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(1000);
    run.kill('SIGKILL');
    await run;
    await expectJobGone(scenario);
    // Nobody guards what is not there.
    await expect.poll(() => guardsOf(scenario.domain.uuid), { timeout: patient(10_000) }).toEqual([]);
    await expectIncrementalNext(scenario);
  });

  it('the run is killed while libvirtd hangs: its job goes when that answers', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    const libvirtd = (await lab.pidOf('libvirtd')) ?? 0;
    process.kill(libvirtd, 'SIGSTOP');
    try {
      run.kill('SIGKILL');
      await run;
      await sleep(2000);
      expect(await scratchOf(scenario)).not.toEqual([]);
    } finally {
      process.kill(libvirtd, 'SIGCONT');
    }
    await expectJobGone(scenario);
    await expectIncrementalNext(scenario);
  });

  it('the run is killed while its target hangs: its job goes at once', async () => {
    const scenario = await domainScenario(lab);
    const target = await mountHanging(scenario.target);
    await scenario.backup('auto');
    await bigChange(scenario);
    const run = slowInc(scenario, { detached: true });
    await untilPulling(scenario);
    await sleep(1000);
    target.hang();
    await sleep(500);
    process.kill(-(run.pid ?? 0), 'SIGKILL');
    await expectJobGone(scenario);
    target.answer();
    await run;
    await expectIncrementalNext(scenario);
  });

  it('the NBD connection of a FULL and of an INC is cut: no point, and the next run is incremental', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    for (const level of ['full', 'inc']) {
      const run = startCli([
        ...[...scenario.vm, 'backup', '--level', level, '--target', scenario.target],
        ...['--speed-limit', '2M', '--no-digest'],
      ]);
      await untilPulling(scenario);
      await sleep(700);
      await lab.virsh(['qemu-monitor-command', scenario.domain.uuid, '{"execute":"nbd-server-stop"}']);
      const { exitCode, stderr } = await run;
      expect(exitCode).toBe(1);
      expect(stderr).toMatch(/the backup of vd[ab] failed: .*\n.*no change is lost/);
      await scenario.expectNothingLeft(1);
    }
    expect((await scenario.backup('inc')).point.number).toBe(1);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('the target gets full, of a FULL and of an INC: no point, nothing left, and the next run is incremental', async () => {
    const scenario = await domainScenario(lab);
    const small = await mountSmall(scenario.target, 64 * MiB);
    const blindly = ['--reserve', '0', '--force', '--no-digest'];
    await bigChange(scenario);
    const fails = async (level: string): Promise<void> => {
      await small.fillBut(10 * MiB);
      const args = [...scenario.vm, 'backup', '--level', level, '--target', scenario.target, ...blindly];
      const { stderr } = await expectCli(1, args);
      expect(stderr).toMatch(/No space left on device|ENOSPC|the space on the target .* runs out/);
      expect(stderr).toMatch(/hint: .*no change is lost/);
      expect(await scenario.domain.state()).toBe('running');
      await small.empty();
    };
    await fails('full');
    await scenario.expectNothingLeft(0);
    expect((await scenario.backup('auto', ...blindly)).point).toMatchObject({ number: 0, level: 'full' });
    await bigChange(scenario);
    await fails('inc');
    await scenario.expectNothingLeft(1);
    await writeBothDisks(scenario, 54, 0x64);
    expect((await scenario.backup('inc', ...blindly)).point).toMatchObject({ number: 1, level: 'inc' });
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('the target hangs: the run ends, and before that its job and scratch images; the next run is incremental', async () => {
    const scenario = await domainScenario(lab);
    const target = await mountHanging(scenario.target);
    await scenario.backup('auto');
    await bigChange(scenario);
    const args = [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target, '--stall-timeout', '3'];
    const run = startCli([...args, '--speed-limit', '4M', '--no-digest']);
    await untilPulling(scenario);
    await sleep(1000);
    target.hang();
    const { exitCode, stderr } = await run;
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(/hangs: its file system has not answered for 3 s/);
    const { stdout } = await lab.virsh(['domjobinfo', scenario.domain.uuid]);
    expect(stdout).toMatch(/Job type:\s+None/);
    expect((await readdir(dirname(scenario.fileOf('vda')))).filter((name) => name.endsWith('.scratch'))).toEqual([]);
    target.answer();
    await expectIncrementalNext(scenario);
  });

  it('libvirtd hangs: the run ends by its deadlines and says so, and the next one is incremental', async () => {
    const scenario = await domainWithFull(lab);
    await bigChange(scenario);
    const args = [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target, '--stall-timeout', '3'];
    const run = startCli([...args, '--speed-limit', '8M', '--no-digest']);
    await untilPulling(scenario);
    const libvirtd = (await lab.pidOf('libvirtd')) ?? 0;
    process.kill(libvirtd, 'SIGSTOP');
    try {
      const { exitCode, stderr } = await run;
      expect(exitCode).toBe(1);
      expect(stderr).toMatch(/libvirt was lost|did not end within/);
      expect((await expectCli(1, args)).stderr).toMatch(/virsh list, domstate, .*did not end within 3 s/);
    } finally {
      process.kill(libvirtd, 'SIGCONT');
    }
    await expectIncrementalNext(scenario);
  });

  it('somebody else has a backup job: refused at once, and theirs goes on', async () => {
    const scenario = await domainWithFull(lab);
    const file = join(lab.dir, 'foreign.xml');
    const disks = `<disks><disk name='vda' type='file'><scratch file='${join(lab.dir, 'foreign.scr')}'/></disk></disks>`;
    const server = `<server transport='unix' socket='${join(lab.dir, 'foreign.sock')}'/>`;
    await writeFile(file, `<domainbackup mode='pull'>${server}${disks}</domainbackup>`);
    await lab.virsh(['backup-begin', scenario.domain.uuid, file]);
    const refused = await expectCli(11, [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target]);
    expect(refused.stderr).toContain('somebody else');
    expect((await lab.virsh(['domjobinfo', scenario.domain.uuid])).stdout).toContain('Backup');
    await lab.virsh(['domjobabort', scenario.domain.uuid]);
    await sleep(500);
    await scenario.backup('inc');
    await scenario.expectChainEqualsDisks();
  });
});
