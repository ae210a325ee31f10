import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, beforeEach, expect, it } from 'vitest';
import type * as FreezeGuard from '../../src/guards/domain-freeze-guard.js';
import type { DomainFreezeTask } from '../../src/guards/domain-freeze-guard-messages.js';
import { built } from '../support/built.js';
import { type PretendVirsh, pretendVirsh } from '../support/pretend-virsh.js';

// The guard's own process, and a virsh that answers as the real one was seen to, at moments that it cannot be made to
// choose. That freeze and thaw reach a real guest is shown in e2e/domain-guest and domain-stalled.

const UUID = '11111111-2222-4333-8444-555555555555';
const NOT_RUNNING = 'error: Requested operation is not valid: domain is not running';
const SILENT = 'error: Guest agent is not responding: Guest agent not available for now';

let module: typeof FreezeGuard;
beforeAll(async () => {
  // Its process is started from where it lies.
  module = (await import(await built('guards/domain-freeze-guard.js'))) as typeof FreezeGuard;
});

let virsh: PretendVirsh;
beforeEach(async () => {
  virsh = await pretendVirsh();
  await virsh.answer('domtime', 'echo Time: 1');
  await virsh.answer('domfsfreeze', 'echo Froze 2 filesystem\\(s\\)');
  await virsh.answer('domfsthaw', 'echo Thawed 2 filesystem\\(s\\)');
  await virsh.answer('domstate', 'echo running \\(booted\\)');
});

function guard(more: Partial<DomainFreezeTask> = {}): Promise<FreezeGuard.DomainFreezeGuard> {
  const limits = { freezeTimeoutMs: 5_000, freezeLimitMs: 10_000, thawTimeoutMs: 2_000 };
  return module.DomainFreezeGuard.start({ connect: null, uuid: UUID, name: 'vm', ...limits, ...more });
}

async function untilThawed(): Promise<void> {
  while ((await virsh.calls()).at(-1) !== 'domfsthaw') await sleep(20);
}

it('freezes and thaws, and says that the guest was frozen meanwhile', async () => {
  const one = await guard();
  expect(await one.freeze()).toEqual({ fileSystems: 2 });
  expect(await one.finish()).toMatchObject({ statusAfterTransaction: 'frozen' });
  await one.release();
  expect(await virsh.calls()).toEqual(['domtime', 'domfsfreeze', 'domfsthaw']);
});

it('that had to thaw at its limit says that the guest did not stay frozen', async () => {
  const one = await guard({ freezeLimitMs: 200 });
  await one.freeze();
  await untilThawed();
  expect(await one.finish()).toMatchObject({ statusAfterTransaction: 'thawed' });
  await one.release();
});

it('asks first whether the agent answers: one that does not is not frozen', async () => {
  await virsh.answer('domtime', `echo '${SILENT}' >&2; exit 1`);
  const one = await guard();
  await expect(one.freeze()).rejects.toThrow(/could not freeze it: .*not available for now/);
  await one.release();
  expect(await virsh.calls()).toEqual(['domtime']);
});

it('does not send a freeze to an agent that hangs', async () => {
  await virsh.answer('domtime', 'exec sleep 60');
  const one = await guard({ freezeTimeoutMs: 500 });
  await expect(one.freeze()).rejects.toThrow(/could not freeze it: virsh domtime did not end within/);
  await one.release();
  expect(await virsh.calls()).toEqual(['domtime']);
});

it('thaws after a freeze that libvirt gave up, which may come to pass all the same', async () => {
  await virsh.answer('domfsfreeze', `echo '${SILENT}' >&2; exit 1`);
  const one = await guard();
  await expect(one.freeze()).rejects.toThrow(/could not freeze it/);
  await one.release();
  expect(await virsh.calls()).toEqual(['domtime', 'domfsfreeze', 'domfsthaw']);
});

it('goes on trying while the domain is paused, and ends where it is off', async () => {
  const one = await guard();
  await one.freeze();
  await virsh.answer('domfsthaw', `echo '${NOT_RUNNING}' >&2; exit 1`);
  await virsh.answer('domstate', 'echo paused \\(user\\)');
  await expect(one.finish()).rejects.toMatchObject({ name: 'DomainNotThawed' });
  await virsh.answer('domfsthaw', 'echo Thawed 2 filesystem\\(s\\)');
  await one.release();
  await untilThawed();

  const other = await guard();
  await other.freeze();
  await virsh.answer('domfsthaw', `echo '${NOT_RUNNING}' >&2; exit 1`);
  await virsh.answer('domstate', 'echo shut off \\(crashed\\)');
  expect(await other.finish()).toMatchObject({ statusAfterTransaction: 'thawed' });
  await other.release();
});
