import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { boot, endProcess, isAlive, recordIn, withMonitor } from '../support/booted.js';
import { MiB } from '../support/builders.js';
import { photograph } from '../support/chains.js';
import { expectCli, startCli } from '../support/cli.js';
import { checkFs } from '../support/lab/compare.js';
import { ensureGuest } from '../support/lab/guest.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { run } from '../support/lab/programs.js';
import { startQemu } from '../support/lab/qemu.js';
import { patient } from '../support/patience.js';
import { afterTest, labDir } from '../support/scenario.js';

const DISKS = ['d1', 'd2'] as const;

it('a guest that writes all the time is freed from its backup, although the tool is killed', async () => {
  const dir = await labDir();
  const target = join(dir, 'target');
  const disks = DISKS.map((id) => ({ id, file: join(dir, `${id}.qcow2`) }));
  for (const { id, file } of disks) {
    await makeExt4({ file, label: `DATA${id.slice(1)}`, format: 'qcow2', size: 64 * MiB });
  }
  const vm = await startQemu({ dir: join(dir, 'vm'), name: 'writer', disks, guest: { workload: ['writer'] } });
  afterTest(() => vm.kill());
  await vm.guest.waitForWorkload('writer');
  const backup = ['--socket', vm.socket, '--agent-socket', vm.agentSocket, 'backup', '--target', target, '--quiesce'];
  for (const mount of ['/mnt/d1', '/mnt/d2', '/mnt/d1']) {
    await expectCli(0, backup);
    await vm.guest.untilWritten(mount);
  }
  await vm.kill();
  const before = await photograph(target);

  const { kernel, initramfs } = await ensureGuest();
  const files = ['-kernel', kernel, '-initrd', initramfs];
  const to = join(dir, 'to');
  const asked = ['--target', target, '--to', to, '--stream'];
  const killed = startCli(['boot', ...asked, '--rate-limit', '1M', '--', '-accel', 'tcg', ...files]);
  afterTest(async () => endProcess((await recordIn(to)).owner.pid, 'SIGKILL'));
  await untilGrown(join(to, 'd1.qcow2'), 2048);
  expect(killed.exitCode).toBeNull();
  killed.kill('SIGKILL');
  await killed;
  const { pid } = (await recordIn(to)).owner;
  expect(isAlive(pid)).toBe(true);

  const vmAgain = await boot(asked);
  expect(vmAgain).toMatchObject({ state: 'already-running', pid });
  expect(vmAgain.disks.map(({ leans }) => leans)).toEqual([false, false]);
  await expectCli(0, ['verify', '--target', target]);
  const after = Object.entries(await photograph(target)).filter(([name]) => !name.endsWith('verified.json'));
  expect(Object.fromEntries(after)).toEqual(before);
  // It has booted from the disks that it was freed from, and unmounts them.
  const agent = ['--socket', vmAgain.monitor, '--agent-socket', vmAgain.agent ?? '', 'backup', '--quiesce'];
  await untilAnswers(() => expectCli(0, [...agent, '--dry-run', '--target', join(dir, 'again')]));
  await withMonitor(vmAgain, (client) => client.execute('system_powerdown'));
  const until = Date.now() + patient(60_000);
  while (isAlive(pid) && Date.now() < until) await sleep(100);
  expect(isAlive(pid)).toBe(false);
  for (const id of DISKS) await checkFs(join(to, `${id}.qcow2`));
  expect(await readFile(join(to, 'start-vm.sh'), 'utf8')).not.toContain('"driver":"nbd"');
});

async function untilGrown(path: string, kib: number): Promise<void> {
  const until = Date.now() + patient(60_000);
  for (;;) {
    const { stdout } = await run('du', ['-k', path], { allowed: [0, 1] });
    if (Number(stdout.split('\t')[0]) > kib) return;
    if (Date.now() > until) throw new Error(`${path} does not grow`);
    await sleep(50);
  }
}

/** The guest is still booting. */
async function untilAnswers(ask: () => Promise<unknown>): Promise<void> {
  const until = Date.now() + patient(60_000);
  for (;;) {
    try {
      await ask();
      return;
    } catch (error) {
      if (Date.now() > until) throw error;
    }
    await sleep(500);
  }
}
