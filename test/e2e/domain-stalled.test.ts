import { textsOf } from '../support/scenario.js';
import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type * as FreezeGuard from '../../src/guards/domain-freeze-guard.js';
import { built } from '../support/built.js';
import { expectCli, startCli } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { domainScenario, type DomainScenario, guardsOf } from '../support/domain-scenario.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { type LibvirtLab, startLibvirt } from '../support/lab/libvirt.js';
import { makeLabDir, run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';

// A real guest that is held up by a backup, or by what is left of one: it goes on, whatever becomes of the run.

const MiB = 1024 * 1024;
const MOUNT = '/mnt/d1';

let small: string;
let lab: LibvirtLab;
let scenario: DomainScenario;
beforeAll(async () => {
  // Before the libvirt of the lab, which sees only what was mounted by then.
  small = join(await makeLabDir(), 'small');
  await mkdir(small);
  await run('mount', ['-t', 'tmpfs', '-o', 'size=24m,mode=0755', 'qmplab', small]);
  lab = await startLibvirt();
  const file = join(lab.dir, 'images', 'guest.qcow2');
  await makeExt4({ file, label: 'DATA1', format: 'qcow2', size: 128 * MiB });
  scenario = await domainScenario(lab, { disks: [{ target: 'vda', file }], guest: true });
  await scenario.domain.guest.run(`dd if=/dev/urandom of=${MOUNT}/f bs=1M count=60 conv=fsync`);
}, patient(180_000));
afterAll(async () => {
  // One that a failed test leaves would go on for an hour.
  for (const pid of await guardsOf(scenario.domain.uuid)) process.kill(pid, 'SIGKILL');
  await lab?.close();
  await run('umount', ['-l', small]);
  await rm(dirname(small), { recursive: true });
});

describe('a guest whose old data does not fit into the scratch images', () => {
  /** In the middle of a slow FULL it overwrites more than its scratch image can take, and libvirt pauses it. */
  const stalled = async <T>(start: (args: readonly string[]) => T) => {
    const { domain, vm, target } = scenario;
    const scratch = ['--fleece-dir', small, '--reserve', '0', '--speed-limit', '10M', '--no-digest'];
    const tool = start([...vm, 'backup', '--level', 'full', '--target', target, ...scratch]);
    await expect
      .poll(async () => (await lab.virsh(['domjobinfo', domain.uuid])).stdout, { timeout: patient(30_000) })
      .toMatch(/Backup/);
    const written = domain.guest.run(`dd if=/dev/urandom of=${MOUNT}/f bs=1M count=60 conv=notrunc,fsync`);
    await expect.poll(reason, { timeout: patient(30_000) }).toBe('paused (I/O error)');
    return { tool, written };
  };
  const reason = async () => (await lab.virsh(['domstate', '--reason', scenario.domain.uuid])).stdout.trim();

  it('goes on when the run has ended well', async () => {
    const { tool, written } = await stalled(startCli);
    const { exitCode, stderr } = await tool;
    expect({ exitCode, stderr }).toMatchObject({
      exitCode: 0,
      stderr: expect.stringContaining('it goes on now') as string,
    });
    await written;
    expect(await reason()).toMatch(/^running/);
    await scenario.expectNothingLeft(1);
  });

  it('goes on where the run is killed', async () => {
    const { tool, written } = await stalled(startCli);
    tool.kill('SIGKILL');
    await tool;
    await written;
    await expect.poll(reason).toMatch(/^running/);
    await scenario.backup('auto');
    await scenario.expectNothingLeft(2);
  });

  it('goes on with the run after one that was killed with its guard', async () => {
    const { tool, written } = await stalled(startCli);
    for (const pid of await guardsOf(scenario.domain.uuid)) process.kill(pid, 'SIGKILL');
    tool.kill('SIGKILL');
    await tool;
    const { warnings } = await scenario.backup('auto');
    expect(textsOf(warnings).join()).toContain('it goes on now');
    await written;
    expect(await reason()).toMatch(/^running/);
    await scenario.expectNothingLeft(2);
  });

  it('goes on with the run after one that was killed, with its guard, between its job and its point', async () => {
    const point = { when: 'after', call: 'spawn', matches: /domjobabort/, guards: 'die' } as const;
    const { tool, written } = await stalled((args) => crashCli(point, args));
    await tool;
    expect(await reason()).toBe('paused (I/O error)');
    expect(textsOf((await scenario.backup('auto')).warnings).join()).toContain('it goes on now');
    await written;
    expect(await reason()).toMatch(/^running/);
    await scenario.expectNothingLeft(2);
  });
});

describe('a guest that somebody else has frozen', () => {
  it('stays frozen when a backup with --quiesce=require fails by that', async () => {
    const { domain, vm, target } = scenario;
    await lab.virsh(['domfsfreeze', domain.uuid]);
    const args = [...vm, 'backup', '--level', 'auto', '--quiesce=require', '--target', target];
    expect((await expectCli(1, args)).stderr).toMatch(/was not frozen: .*if no other program freezes it now/);
    expect((await lab.virsh(['domfsthaw', domain.uuid])).stdout).toMatch(/Thawed [1-9]/);
    await scenario.expectNothingLeft(2);
  });
});

describe('a guest whose disk is so slow that its freeze is given up', () => {
  it('is thawed when that freeze has come to pass, though nobody waits for it any more', async () => {
    const { domain } = scenario;
    await domain.guest.run('sync');
    await lab.virsh(['blkdeviotune', domain.uuid, 'vda', '--write-bytes-sec', '200000']);
    await domain.guest.run(`dd if=/dev/urandom of=${MOUNT}/g bs=1M count=3`);
    // Built, for it starts a process of its own.
    const library = pathToFileURL(await built('guards/domain-freeze-guard.js')).href;
    const { DomainFreezeGuard } = (await import(library)) as typeof FreezeGuard;
    const limits = { freezeTimeoutMs: 500, freezeLimitMs: 5_000, thawTimeoutMs: 500 };
    const guard = await DomainFreezeGuard.start({ connect: lab.uri, uuid: domain.uuid, name: domain.name, ...limits });
    await expect(guard.freeze()).rejects.toThrow(/could not be confirmed that the guest is thawed/);
    await guard.release();
    // It ends by itself once it has been answered, and the guest writes again.
    expect(await guardsOf(domain.uuid)).not.toEqual([]);
    await expect.poll(() => guardsOf(domain.uuid), { timeout: patient(90_000), interval: 500 }).toEqual([]);
    expect(await domain.guest.isFrozen(MOUNT)).toBe(false);
    await lab.virsh(['blkdeviotune', domain.uuid, 'vda', '--write-bytes-sec', '0']);
    await domain.guest.run(`echo x >${MOUNT}/h && sync`);
    const { point } = await scenario.backup('auto', '--quiesce=require');
    expect(point.consistency).toBe('filesystem');
  });
});
