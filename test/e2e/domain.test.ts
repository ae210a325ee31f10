import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectCli, startCli } from '../support/cli.js';
import { type CrashPoint, crashCli } from '../support/crash-point.js';
import { type DomainScenario, domainScenario, writeBothDisks } from '../support/domain-scenario.js';
import { checkFs, checkWrittenFiles } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { discard, write, writeZeroes } from '../support/lab/guest-writes.js';
import { type LibvirtLab, startLibvirt } from '../support/lab/libvirt.js';

const MiB = 1024 * 1024;

let lab: LibvirtLab;
beforeAll(async () => {
  lab = await startLibvirt();
});
afterAll(async () => {
  await lab.close();
});

async function withFull(): Promise<DomainScenario> {
  const scenario = await domainScenario(lab);
  await write(scenario.domain, 'vda', { offset: 0, length: 8 * MiB, pattern: 0x11 });
  await write(scenario.domain, 'vdb', { offset: MiB, length: 3 * MiB, pattern: 0x12 });
  expect((await scenario.backup('auto')).point).toMatchObject({ number: 0, level: 'full' });
  return scenario;
}

describe('a running domain', () => {
  it('goes into a chain of FULL and INC that equals the disks at each point', async () => {
    const scenario = await withFull();
    await scenario.expectChainEqualsDisks();
    for (const round of [1, 2, 3]) {
      await write(scenario.domain, 'vda', { offset: round * MiB, length: MiB, pattern: 0x20 + round });
      await write(scenario.domain, 'vdb', { offset: 32 * MiB + round * 4096, length: 4096, pattern: 0x30 + round });
      const { point } = await scenario.backup('auto');
      expect(point).toMatchObject({ number: round, level: 'inc', disks: [{ changed: MiB }, { changed: 65536 }] });
      await scenario.expectChainEqualsDisks();
      await scenario.expectNothingLeft(2);
    }
  });

  it('zeroed and discarded areas between points restore as zeros', async () => {
    const scenario = await withFull();
    await writeZeroes(scenario.domain, 'vda', { offset: MiB, length: 2 * MiB });
    await discard(scenario.domain, 'vda', { offset: 4 * MiB, length: MiB });
    await writeZeroes(scenario.domain, 'vdb', { offset: MiB + 4096, length: 4096 });
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
  });

  it('a copy leaves checkpoints and chain alone; a diff copies what changed since the FULL', async () => {
    const scenario = await withFull();
    const before = await scenario.checkpoints();
    expect((await scenario.backup('copy')).point.level).toBe('copy');
    expect(await scenario.checkpoints()).toEqual(before);
    await writeBothDisks(scenario, 20, 0x41);
    await scenario.backup('inc');
    await writeBothDisks(scenario, 22, 0x42);
    const { point } = await scenario.backup('diff');
    expect(point.disks.map(({ level, changed }) => [level, changed])).toEqual([
      ['diff', 2 * MiB],
      ['diff', 2 * MiB],
    ]);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('--verify compares each point with the frozen instant; --compress takes less space', async () => {
    const scenario = await withFull();
    await writeBothDisks(scenario, 20, 0x41);
    const { stderr } = await expectCli(0, [
      ...[...scenario.vm, 'backup', '--level', 'inc', '--verify', '--compress', '--target', scenario.target],
    ]);
    expect(stderr).toContain('comparing all of it');
    await scenario.expectChainEqualsDisks();
    await scenario.backup('full', '--verify=sample', '--compress');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('--dry-run says what would be done and changes nothing', async () => {
    const scenario = await withFull();
    const catalog = await readFile(join(scenario.target, 'catalog.json'), 'utf8');
    const checkpoints = await scenario.checkpoints();
    const { stdout } = await expectCli(0, [
      ...scenario.vm,
      ...['backup', '--level', 'auto', '--dry-run', '--target', scenario.target],
    ]);
    expect(stdout).toContain('INC');
    expect(await readFile(join(scenario.target, 'catalog.json'), 'utf8')).toBe(catalog);
    expect(await scenario.checkpoints()).toEqual(checkpoints);
  });
});

describe('what a domain cannot do', () => {
  const refused = async (code: number, args: readonly string[]): Promise<string> => {
    const target = join(lab.dir, 'never-made');
    const { stderr } = await expectCli(code, [...args, '--target', target]);
    expect(existsSync(target)).toBe(false);
    return stderr;
  };

  it('says so before anything is changed: off, unknown, without scratch images, no libvirt', async () => {
    const { vm, domain } = await domainScenario(lab);
    expect(await refused(2, [...vm, 'backup', '--level', 'full', '--fleece', 'never'])).toContain('--fleece-dir');
    await domain.destroy();
    expect(await refused(13, [...vm, 'backup', '--level', 'full'])).toContain('is shut off');
    const unknown = ['--connect', lab.uri, '--domain', 'no such thing', 'backup', '--level', 'full'];
    expect(await refused(12, unknown)).toContain('no such thing');
    const nowhere = ['--connect', 'qemu+unix:///system?socket=/nowhere', '--domain', 'a', 'backup', '--level', 'full'];
    expect(await refused(12, nowhere)).toContain('/nowhere');
    expect(await refused(2, ['--socket', '/run/x', ...vm, 'backup', '--level', 'full'])).toContain('--domain');
  });

  it('the monitor of a domain is refused, with the option to use', async () => {
    const { domain, vm } = await domainScenario(lab);
    const id = (await lab.virsh(['domid', domain.uuid])).stdout.trim();
    const monitor = join(lab.dir, 'var/lib/libvirt/qemu', `domain-${id}-${domain.name}`, 'monitor.sock');
    expect(await refused(13, ['--socket', monitor, 'backup', '--level', 'full'])).toContain(`--domain ${domain.name}`);
    await expectCli(13, ['--socket', monitor, 'info', '--show', 'blockdev']);
    await expectCli(0, [...vm, 'backup', '--level', 'full', '--target', join(lab.dir, 'by-name')]);
  });
});

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

  it('of an INC, each one in turn on one chain: the next run is incremental and loses nothing', async () => {
    const scenario = await withFull();
    await writeBothDisks(scenario, 60, 0x3f);
    await scenario.backup('inc');
    let number = 2;
    for (const [index, { name, sealed = false, ...step }] of steps.entries()) {
      try {
        await writeBothDisks(scenario, 10 + 2 * index, 0x40 + index);
        await crashCli(step, [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target]);
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
  });
});

describe('a domain that was away', () => {
  it('goes on incrementally after it was destroyed and started', async () => {
    const scenario = await withFull();
    await writeBothDisks(scenario, 20, 0x51);
    await scenario.domain.destroy();
    await scenario.domain.start();
    await writeBothDisks(scenario, 21, 0x52);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
  });

  it('goes on incrementally after it was undefined and defined again', async () => {
    const scenario = await withFull();
    const { domain } = scenario;
    await writeBothDisks(scenario, 20, 0x51);
    await domain.destroy();
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata']);
    const file = join(lab.dir, 'again.xml');
    await writeFile(file, domain.xml);
    await lab.virsh(['define', file]);
    await domain.start();
    await writeBothDisks(scenario, 21, 0x52);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('takes a FULL and says why after its QEMU was killed, and goes on incrementally then', async () => {
    const scenario = await withFull();
    await writeBothDisks(scenario, 20, 0x51);
    await scenario.domain.kill();
    await scenario.domain.start();
    await writeBothDisks(scenario, 21, 0x52);
    const refused = await expectCli(13, [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target]);
    expect(refused.stderr).toContain('QEMU was killed');
    const { point } = await scenario.backup('auto');
    expect(point.disks.map(({ level }) => level)).toEqual(['full', 'full']);
    await scenario.expectChainEqualsDisks();
    await writeBothDisks(scenario, 22, 0x53);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });
});

describe('what fails in the middle', () => {
  /** A run that is pulling: slow enough to be met there. */
  const slowInc = (scenario: DomainScenario) =>
    startCli([
      ...[...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target],
      ...['--speed-limit', '2M', '--no-digest'],
    ]);
  const untilPulling = async (scenario: DomainScenario): Promise<void> => {
    for (let tries = 0; tries < 300; tries += 1) {
      const { stdout } = await lab.virsh(['domjobinfo', scenario.domain.uuid], { allowed: [0, 1] });
      if (/Operation:\s+Backup/.test(stdout)) return;
      await sleep(100);
    }
    throw new Error('no job was seen');
  };
  const bigChange = async (scenario: DomainScenario): Promise<void> => {
    await write(scenario.domain, 'vda', { offset: 16 * MiB, length: 24 * MiB, pattern: 0x61 });
    await writeBothDisks(scenario, 50, 0x62);
  };

  it('the job is ended by somebody: no point, and the next run is incremental', async () => {
    const scenario = await withFull();
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(1000);
    await lab.virsh(['domjobabort', scenario.domain.uuid]);
    expect((await run).exitCode).toBe(1);
    expect((await scenario.backup('inc')).point.number).toBe(1);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('QEMU is killed: no point counts, and auto goes on with a FULL', async () => {
    const scenario = await withFull();
    await bigChange(scenario);
    const run = slowInc(scenario);
    await untilPulling(scenario);
    await sleep(1000);
    await scenario.domain.kill();
    expect((await run).exitCode).toBe(1);
    await scenario.domain.start();
    expect((await scenario.backup('auto')).point.disks.map(({ level }) => level)).toEqual(['full', 'full']);
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });

  it('libvirtd is killed and started again: the run ends with a point or an error, and nothing is lost', async () => {
    const scenario = await withFull();
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
    const scenario = await withFull();
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

  it('somebody else has a backup job: refused at once, and theirs goes on', async () => {
    const scenario = await withFull();
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

describe('a real guest that writes all the time', () => {
  it('is frozen for a moment, and its points are clean file systems with its files', async () => {
    const dir = join(lab.dir, 'images');
    const disks = ['vda', 'vdb'].map((target, index) => ({
      target,
      file: join(dir, `guest-${target}.qcow2`),
      label: `DATA${index + 1}`,
    }));
    for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 64 * MiB });
    const domain = await lab.define({
      name: 'writer',
      disks: disks.map(({ target, file }) => ({ target, file })),
      guest: { workload: ['writer'] },
    });
    await domain.start();
    await domain.guest.waitForWorkload('writer');
    const target = join(lab.dir, 'target-writer');
    const vm = ['--json', '--connect', lab.uri, '--domain', 'writer'];
    const points = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
    for (const number of points) {
      const answer = await expectCli(0, [...vm, 'backup', '--level', 'auto', '--quiesce=require', '--target', target]);
      const { point, freeze } = answer.json<{
        point: { number: number; level: string; consistency: string };
        freeze: { fileSystems: number };
      }>();
      expect(point).toMatchObject({ number, level: number === 0 ? 'full' : 'inc', consistency: 'filesystem' });
      expect(freeze.fileSystems).toBeGreaterThan(0);
      await sleep(300);
    }
    for (const number of points) {
      const output = join(lab.dir, `writer-${number}`);
      await expectCli(0, ['restore', '--target', target, '--point', String(number), '--output', output]);
      for (const disk of disks) {
        const image = join(output, `${disk.target}.qcow2`);
        await checkFs(image);
        expect((await checkWrittenFiles(image)).matched).toBeGreaterThan(0);
      }
      await rm(output, { recursive: true });
    }
    expect(await domain.guest.isFrozen('/mnt/d1')).toBe(false);
    await domain.destroy();
  });
});
