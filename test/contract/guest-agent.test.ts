/** One suite for the fake agent and for the distribution's qemu-ga in a real guest, so that the fake stays honest. */
import { rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { FreezeGuard, thawNow } from '../../src/guards/freeze-guard.js';
import { canFreeze, GuestAgent } from '../../src/guest-agent/client.js';
import { describeEndpoint, type Endpoint } from '../../src/qmp/endpoint.js';
import { built, ensureBuilt } from '../support/built.js';
import { FakeAgent } from '../support/fake-agent.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { makeLabDir } from '../support/lab/programs.js';
import { startQemu } from '../support/lab/qemu.js';
import { patient } from '../support/patience.js';

/** A guest with two file systems on disks. */
interface Peer {
  readonly endpoint: Endpoint;
  /** Nothing in the guest runs until it is resumed; what was asked meanwhile is done then. */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Seen from within the guest, without the agent's socket. */
  isFrozen(): Promise<boolean>;
  /** SIGKILL of the agent's process; its service starts it again. */
  killAgent(): Promise<void>;
  stop(): Promise<void>;
}

async function fakePeer(listen: 'unix' | 'tcp'): Promise<Peer> {
  const agent = await FakeAgent.start({ listen });
  let resume = (): void => undefined;
  return {
    endpoint: agent.endpoint,
    pause: () => {
      const until = new Promise<void>((resolve) => (resume = resolve));
      agent.script = () => ({ until });
      return Promise.resolve();
    },
    resume: () => {
      agent.script = () => undefined;
      resume();
      return Promise.resolve();
    },
    isFrozen: () => Promise.resolve(agent.frozen),
    killAgent: () => {
      // The freeze state outlives the real agent in a file, the fake in a field.
      const until = sleep(300);
      agent.script = () => ({ until });
      return Promise.resolve();
    },
    stop: () => agent.close(),
  };
}

async function realPeer(): Promise<Peer> {
  const dir = await makeLabDir();
  const disks = ['DATA1', 'DATA2'].map((label) => ({ id: label.toLowerCase(), label, file: join(dir, label) }));
  for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 32 * 1024 * 1024 });
  const vm = await startQemu({ dir, disks: disks.map(({ id, file }) => ({ id, file })), guest: true });
  return {
    endpoint: { kind: 'unix', path: vm.agentSocket },
    pause: async () => void (await vm.control.execute('stop')),
    resume: async () => void (await vm.control.execute('cont')),
    isFrozen: async () => {
      const write = 'timeout 2 sh -c ": >/mnt/d1/probe"';
      const { stdout } = await vm.guest.tryRun(`[ -e /run/qga.state.isfrozen ] && echo frozen || ${write}`);
      return stdout.trim() === 'frozen';
    },
    killAgent: async () => void (await vm.guest.run('killall -9 qemu-ga')),
    stop: async () => {
      await vm.kill();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

const PEERS: readonly (readonly [string, () => Promise<Peer>])[] = [
  ['the fake', () => fakePeer('unix')],
  ['the fake over TCP', () => fakePeer('tcp')],
  ['qemu-ga in a real guest', realPeer],
];

const MS = patient(5_000);

// Not within the time of the first test that needs it.
beforeAll(ensureBuilt, patient(180_000));

describe.each(PEERS)('%s', (_, start) => {
  let peer: Peer;
  const agents: GuestAgent[] = [];
  const open = async (timeoutMs = MS): Promise<GuestAgent> => {
    const agent = await GuestAgent.connect(peer.endpoint, { timeoutMs });
    agents.push(agent);
    return agent;
  };

  beforeAll(async () => {
    peer = await start();
  }, patient(180_000));
  afterEach(async () => {
    for (const agent of agents.splice(0)) agent.close();
    await peer.resume();
    await thawNow(peer.endpoint, { timeoutMs: MS });
    expect(await peer.isFrozen()).toBe(false);
  });
  afterAll(async () => {
    await peer.stop();
  });

  test('answers to ping and tells its version and its commands', async () => {
    const agent = await open();
    await agent.ping(MS);
    const info = await agent.info(MS);
    expect(info.version).toMatch(/^\d+\.\d+/);
    expect(canFreeze(info)).toBe(true);
    expect(await agent.fsfreezeStatus(MS)).toBe('thawed');
  });

  test('freezes and thaws, and says how many file systems', async () => {
    const agent = await open();
    expect(await agent.freeze(MS)).toBe(2);
    expect(await agent.fsfreezeStatus(MS)).toBe('frozen');
    expect(await peer.isFrozen()).toBe(true);
    expect(await agent.thaw(MS)).toBe(2);
    expect(await agent.fsfreezeStatus(MS)).toBe('thawed');
    expect(await peer.isFrozen()).toBe(false);
    expect(await agent.thaw(MS)).toBe(0);
  });

  test('while frozen it refuses to freeze in its own words, and lists that as disabled', async () => {
    const agent = await open();
    await agent.freeze(MS);
    await expect(agent.freeze(MS)).rejects.toMatchObject({
      kind: 'refused',
      message: expect.stringContaining('the agent is in frozen state') as string,
    });
    const info = await agent.info(MS);
    expect(info.disabled).toContain('guest-fsfreeze-freeze');
    expect(canFreeze(info)).toBe(false);
  });

  test('status, thaw and status in one write are answered in order', async () => {
    const agent = await open();
    await agent.freeze(MS);
    const step = await agent.thawAtOnce({ askBefore: true, timeoutMs: MS });
    expect(step).toMatchObject({ before: 'frozen', after: 'thawed' });
    expect(step.requestedAt).toBeLessThan(step.answeredAt);
    expect(step.answeredAt).toBeLessThanOrEqual(step.confirmedAt);
    expect(await agent.thawAtOnce({ askBefore: false, timeoutMs: MS })).toMatchObject({
      before: 'unknown',
      after: 'thawed',
    });
  });

  test('what an earlier client left half-written does no harm', async () => {
    const { endpoint } = peer;
    const socket = endpoint.kind === 'unix' ? connect(endpoint.path) : connect(endpoint.port, endpoint.host);
    await new Promise((resolve) => socket.write('{"execute":"guest-ping"}\n{"execute": "guest-sy', resolve));
    socket.destroy();
    const agent = await open();
    expect(await agent.fsfreezeStatus(MS)).toBe('thawed');
  });

  test('a second client is connected but not answered until the first has gone', async () => {
    const first = await open();
    await expect(open(300)).rejects.toMatchObject({
      kind: 'silent',
      code: 'unreachable',
      message: expect.stringContaining('another client holds its socket') as string,
    });
    first.close();
    const next = await open();
    await next.ping(MS);
  });

  test('after a late answer it syncs before the next command', async () => {
    const agent = await open();
    await peer.pause();
    await expect(agent.ping(200)).rejects.toMatchObject({ kind: 'timeout' });
    await peer.resume();
    expect(await agent.fsfreezeStatus(MS)).toBe('thawed');
    expect(canFreeze(await agent.info(MS))).toBe(true);
  });

  test('a freeze that comes late is followed by the thaw that was sent meanwhile', async () => {
    const agent = await open();
    await peer.pause();
    await expect(agent.freeze(300)).rejects.toMatchObject({ kind: 'timeout' });
    const thaw = agent.thawAtOnce({ askBefore: true, timeoutMs: MS });
    await sleep(200);
    await peer.resume();
    expect(await thaw).toMatchObject({ before: 'frozen', after: 'thawed' });
    expect(agent.lateFreezeWasAnswered).toBe(true);
  });

  test('a guest that a dead run left frozen is thawed', async () => {
    const agent = await open();
    await agent.freeze(MS);
    agent.close();
    expect(await peer.isFrozen()).toBe(true);
    expect(await thawNow(peer.endpoint, { timeoutMs: MS })).toBe('thawed');
    expect(await peer.isFrozen()).toBe(false);
    expect(await thawNow(peer.endpoint, { timeoutMs: MS })).toBe('was-thawed');
  });

  test('an agent that dies while frozen comes back frozen, and thaws', async () => {
    const agent = await open();
    await agent.freeze(MS);
    await peer.killAgent();
    const step = await agent.thawAtOnce({ askBefore: true, timeoutMs: 15_000 });
    expect(step).toMatchObject({ before: 'frozen', after: 'thawed' });
  });

  test('the guard freezes and finishes', async () => {
    const program = await built('guards/freeze-guard-main.js');
    const guard = await FreezeGuard.start({ agent: peer.endpoint, program });
    try {
      expect(await guard.freeze()).toEqual({ fileSystems: 2 });
      expect(await peer.isFrozen()).toBe(true);
      expect(await guard.finish()).toMatchObject({
        thawed: true,
        confirmed: true,
        statusAfterTransaction: 'frozen',
        thawedBy: 'request',
      });
    } finally {
      await guard.release();
    }
  });

  test('the guard thaws by itself when the limit is over', async () => {
    const program = await built('guards/freeze-guard-main.js');
    const guard = await FreezeGuard.start({ agent: peer.endpoint, program, freezeLimitMs: 300 });
    try {
      await guard.freeze();
      while (await peer.isFrozen()) await sleep(50);
      expect(await guard.status()).toBe('thawed');
      expect(await guard.finish()).toMatchObject({ statusAfterTransaction: 'thawed', thawedBy: 'limit' });
    } finally {
      await guard.release();
    }
  });

  test('the guard thaws a guest that was paused while it froze', async () => {
    const program = await built('guards/freeze-guard-main.js');
    const guard = await FreezeGuard.start({ agent: peer.endpoint, program, freezeTimeoutMs: 300 });
    try {
      await peer.pause();
      const freeze = guard.freeze();
      const outcome = expect(freeze).rejects.toMatchObject({ kind: 'timeout' });
      await sleep(600);
      await peer.resume();
      await outcome;
      expect(await peer.isFrozen()).toBe(false);
    } finally {
      await guard.release();
    }
  });
});

test('where nobody listens the error names the socket', async () => {
  const agent = await FakeAgent.start();
  const { endpoint } = agent;
  await agent.close();
  await expect(GuestAgent.connect(endpoint, { timeoutMs: MS })).rejects.toMatchObject({
    kind: 'unreachable',
    code: 'unreachable',
    message: expect.stringContaining(describeEndpoint(endpoint)) as string,
  });
});
