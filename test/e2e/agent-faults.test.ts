import { textsOf } from '../support/scenario.js';
import { existsSync } from 'node:fs';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type AgentFault, AgentRelay } from '../support/agent-relay.js';
import { MiB } from '../support/builders.js';
import { type CliResult, expectCli, qmpbackup, startCli } from '../support/cli.js';
import { checkFs, compareImages, fileChecksums } from '../support/lab/compare.js';
import { makeExt4 } from '../support/lab/disk-images.js';
import { flush } from '../support/lab/guest-writes.js';
import { makeLabDir, run } from '../support/lab/programs.js';
import { type GuestVm, startQemu } from '../support/lab/qemu.js';
import { patient } from '../support/patience.js';
import { startRelay } from '../support/qmp-relay.js';
import type { BackupAnswer } from '../support/scenario.js';
import { straysOf } from '../support/target-files.js';

/**
 * The real agent of a real guest behind a relay that spoils its answers, or dead. Whatever it does: the run ends, the
 * guest writes again or the error says how to thaw it, and `filesystem` is said only of what was proved. One guest and
 * one target serve all cases, so that each is also the one after a fault.
 */
const FREEZE = 'guest-fsfreeze-freeze';
const STATUS = 'guest-fsfreeze-status';
const THAW = 'guest-fsfreeze-thaw';
const MOUNTS = ['/mnt/d1', '/mnt/d2'] as const;
const DISKS = ['d1', 'd2'] as const;

/** Longer than what a run waits for: --freeze-timeout where a case gives it, and 2 s for the first thaw. In ms. */
const TOO_LATE_MS = 2_500;
/** The deadlines of a run: freeze and thaw (1 s as the cases have it, 30 s), and two margins. In ms. */
const RUN_MS = 45_000;
const QUICK = ['--freeze-timeout', '1'];

const LATE: AgentFault = { kind: 'late', ms: 300 };
const TOO_LATE: AgentFault = { kind: 'late', ms: TOO_LATE_MS };
const TORN: AgentFault = { kind: 'garbled', text: '{"return": {"fr' };
const WRONG: AgentFault = { kind: 'garbled', text: '{"return": {"frozen": "perhaps"}}' };
const TWICE: AgentFault = { kind: 'twice' };
const SWALLOWED: AgentFault = { kind: 'swallowed' };
const CUT: AgentFault = { kind: 'cut' };
const UNHEARD: AgentFault = { kind: 'unheard' };

/** Everything that can happen to one answer, and what a point that was made all the same may say of itself. */
type Case = readonly [name: string, fault: AgentFault, consistency: 'filesystem' | 'crash'];

const AT_FREEZE: readonly Case[] = [
  ['comes late, but in time', LATE, 'filesystem'],
  ['comes after its deadline', TOO_LATE, 'crash'],
  ['is torn', TORN, 'crash'],
  ['is of another shape', WRONG, 'crash'],
  ['comes twice', TWICE, 'filesystem'],
  ['never comes', SWALLOWED, 'crash'],
  ['is lost with the connection', CUT, 'crash'],
  ['is to a request that was lost', UNHEARD, 'crash'],
];
/** The status between transaction and thaw: without it nothing is proved. */
const AT_STATUS: readonly Case[] = [
  ['comes late, but in time', LATE, 'filesystem'],
  ['comes after its deadline', TOO_LATE, 'crash'],
  ['is torn', TORN, 'crash'],
  ['says thawed', { kind: 'garbled', text: '{"return": "thawed"}' }, 'crash'],
  ['comes twice', TWICE, 'crash'],
  ['never comes', SWALLOWED, 'crash'],
  ['is lost with the connection', CUT, 'crash'],
  ['is to a request that was lost', UNHEARD, 'crash'],
];
/** The status that was asked for with the thaw is not believed where the thaw's own answer makes no sense. */
const AT_THAW: readonly Case[] = [
  ['comes late, but in time', LATE, 'filesystem'],
  ['comes after its deadline', TOO_LATE, 'crash'],
  ['is torn', TORN, 'crash'],
  ['is of another shape', WRONG, 'crash'],
  ['comes twice', TWICE, 'crash'],
  ['never comes', SWALLOWED, 'crash'],
  ['is lost with the connection', CUT, 'crash'],
  ['is to a request that was lost', UNHEARD, 'crash'],
];
/** At every request, not only at the first. */
const EVERY_TIME: readonly (readonly [name: string, command: string, fault: AgentFault])[] = [
  ['every thaw is answered twice', THAW, TWICE],
  ['every thaw is answered with an odd shape', THAW, WRONG],
  ['every status is late', STATUS, LATE],
];

interface Answer extends BackupAnswer {
  readonly freeze: { readonly fileSystems: number } | null;
}

let dir = '';
let target = '';
let vm: GuestVm;
let relay: AgentRelay;
/** Points that said `filesystem`, with the line that the guest had written just before. */
const proved: { readonly point: number; readonly line: string }[] = [];
let written = 0;
let points = 0;

beforeAll(async () => {
  dir = await makeLabDir();
  target = join(dir, 'target');
  const disks = DISKS.map((id, index) => ({ id, label: `DATA${index + 1}`, file: join(dir, `${id}.qcow2`) }));
  for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 32 * MiB });
  vm = await startQemu({
    dir: join(dir, 'vm'),
    name: 'faults',
    disks: disks.map(({ id, file }, index) => ({ id, file, ...(index === 1 && { via: 'blockdev' as const }) })),
    guest: true,
  });
  relay = await AgentRelay.start(join(dir, 'relay.sock'), vm.agentSocket);
});
afterAll(async () => {
  await vm?.kill();
  await relay?.close();
  await rm(dir, { recursive: true, force: true });
});
afterEach(async () => {
  relay.spoil(undefined);
  await expectThawed();
});

const args = (...more: string[]): string[] => [
  ...['--json', '--socket', vm.socket, '--agent-socket', relay.socket],
  ...['backup', '--level', 'auto', '--target', target, ...more],
];

/** Runs it within its deadlines. */
async function backup(...more: string[]): Promise<CliResult> {
  // Not synced: only a freeze brings it to the disk.
  written += 1;
  await vm.guest.run(MOUNTS.map((mount) => `echo ${written} >${mount}/line`).join(' && '));
  const begun = performance.now();
  const result = await qmpbackup(args(...more));
  expect(performance.now() - begun).toBeLessThan(patient(RUN_MS));
  return result;
}

/** The point that a run made in spite of all. */
function pointOf(result: CliResult): Answer {
  expect(result.exitCode, result.stderr).toBe(0);
  return noted(result.json<Answer>());
}

function noted(answer: Answer): Answer {
  expect(answer.point.number).toBe(points);
  points += 1;
  if (answer.point.consistency === 'filesystem') proved.push({ point: answer.point.number, line: String(written) });
  return answer;
}

async function expectThawed(): Promise<void> {
  for (const mount of MOUNTS) expect(await vm.guest.isFrozen(mount), mount).toBe(false);
}

/** Two bitmaps per disk once there are two points, no job, no node, no partial file, no journal, no lock. */
async function expectNothingLeft(): Promise<void> {
  expect(await vm.control.execute('query-jobs')).toEqual([]);
  const nodes = (await vm.control.execute('query-named-block-nodes', { flat: true })) as {
    'node-name': string;
    'dirty-bitmaps'?: { name: string }[];
  }[];
  expect(nodes.filter((node) => node['node-name'].startsWith('qmpbackup'))).toEqual([]);
  const bitmaps = nodes.flatMap((node) => node['dirty-bitmaps'] ?? []);
  expect(bitmaps).toHaveLength(DISKS.length * Math.min(points, 2));
  const files = existsSync(target) ? await readdir(target, { recursive: true }) : [];
  expect(straysOf(files)).toEqual([]);
}

async function expectCase(command: string, [, fault, consistency]: Case): Promise<void> {
  relay.spoil({ command, nth: 1, fault });
  const answer = pointOf(await backup('--quiesce', ...QUICK));
  expect(relay.hits).toBe(1);
  await expectThawed();
  expect(answer.point.consistency).toBe(consistency);
  if (consistency === 'crash') expect(textsOf(answer.warnings).join()).toContain('the point is marked crash');
  else expect(answer.warnings).toEqual([]);
  await expectNothingLeft();
}

/** The same for somebody who wants no crash point. */
async function expectRefused(command: string, fault: AgentFault): Promise<void> {
  relay.spoil({ command, nth: 1, fault });
  const { exitCode, stderr } = await backup('--quiesce=require', ...QUICK);
  expect(relay.hits).toBe(1);
  await expectThawed();
  expect(exitCode, stderr).toBe(1);
  expect(stderr).toMatch(/--quiesce=require: the guest (was not frozen|did not stay frozen)/);
  await expectNothingLeft();
}

describe('the answer to the freeze', () => {
  it.each(AT_FREEZE)('%s', (...each) => expectCase(FREEZE, each));
  it('is spoilt under --quiesce=require: no point, and nothing is left', () => expectRefused(FREEZE, UNHEARD));
});

describe('the answer to the status between transaction and thaw', () => {
  it.each(AT_STATUS)('%s', (...each) => expectCase(STATUS, each));
  it('is spoilt under --quiesce=require: no point, and nothing is left', () => expectRefused(STATUS, TORN));
});

describe('the answer to the thaw', () => {
  it.each(AT_THAW)('%s', (...each) => expectCase(THAW, each));
  it('is spoilt under --quiesce=require: no point, and nothing is left', () => expectRefused(THAW, CUT));
});

describe('an agent that is odd for good', () => {
  it.each(EVERY_TIME)('%s: the guest is thawed', async (_, command, fault) => {
    relay.spoil({ command, fault });
    pointOf(await backup('--quiesce', ...QUICK));
    expect(relay.hits).toBeGreaterThan(0);
    await expectThawed();
    await expectNothingLeft();
  });
});

describe('the agent dies between freeze and thaw', () => {
  /** Starts a run and returns when the guest is frozen and the transaction is held up. */
  const startFrozenRun = async (...more: string[]) => {
    const monitor = await startRelay(join(dir, 'qmp-relay.sock'), vm.socket);
    const tool = startCli(args('--quiesce=require', ...more).map((arg) => (arg === vm.socket ? monitor.socket : arg)));
    const early = tool.then(({ stderr }) => Promise.reject(new Error(`ended before its transaction: ${stderr}`)));
    await Promise.race([monitor.held, early]);
    early.catch(() => undefined);
    for (const mount of MOUNTS) expect(await vm.guest.isFrozen(mount)).toBe(true);
    return { tool, monitor };
  };

  it('and comes back: it is told to thaw', async () => {
    const { tool, monitor } = await startFrozenRun();
    await vm.guest.run('kill -KILL $(pidof qemu-ga)');
    monitor.letGo();
    const { exitCode, stdout, stderr } = await tool;
    await monitor.close();
    await expectThawed();
    // Whether the new agent was there in time to say frozen, as it does by a file of its own, is a matter of luck.
    if (exitCode === 0) noted(JSON.parse(stdout) as Answer);
    else expect(stderr).toContain('--quiesce=require: the guest did not stay frozen');
    await expectNothingLeft();
  });

  it('and stays dead: the error says how to thaw by hand, which works, and the next run clears up', async () => {
    const { tool, monitor } = await startFrozenRun();
    await vm.guest.run('mv /bin/qemu-ga /bin/qemu-ga.away; kill -KILL $(pidof qemu-ga)');
    monitor.letGo();
    const begun = performance.now();
    const { exitCode, stderr } = await tool;
    expect(performance.now() - begun).toBeLessThan(patient(RUN_MS));
    await monitor.close();
    expect(exitCode).toBe(1);
    expect(stderr).toContain('it could not be confirmed that the guest is thawed');
    for (const mount of MOUNTS) expect(await vm.guest.isFrozen(mount)).toBe(true);

    // As the person would who reads it: brings the agent back, and thaws.
    await vm.guest.run('mv /bin/qemu-ga.away /bin/qemu-ga');
    const byHand = /thaw by hand: (.*)$/m.exec(stderr)?.[1];
    expect(byHand).toContain(relay.socket);
    await untilThawed(byHand ?? '');

    const { point } = pointOf(await backup('--quiesce=require'));
    expect(point.consistency).toBe('filesystem');
    await expectNothingLeft();
  });

  /** The agent takes a moment to come back: a person would do it again. */
  const untilThawed = async (byHand: string): Promise<void> => {
    const until = performance.now() + patient(20_000);
    for (;;) {
      const { stdout } = await run('sh', ['-c', byHand]);
      if (/"return": 2\b/.test(stdout)) return expectThawed();
      if (performance.now() > until) throw new Error(`${byHand} did not thaw: ${stdout}`);
    }
  };
});

describe('afterwards', () => {
  it('every point that says filesystem is one, with what the guest had written', async () => {
    expect(proved.length).toBeGreaterThanOrEqual(5);
    for (const { point, line } of proved) {
      const output = join(dir, `restored-${point}`);
      await expectCli(0, ['restore', '--target', target, '--point', String(point), '--output', output]);
      for (const id of DISKS) {
        const image = join(output, `${id}.qcow2`);
        await checkFs(image);
        expect((await fileChecksums(image)).get('line')).toBe(await sha256OfLine(line));
      }
      await rm(output, { recursive: true });
    }
  });

  it('the chain equals the disks', async () => {
    await vm.control.execute('stop');
    const { point } = noted((await expectCli(0, args())).json<Answer>());
    for (const id of DISKS) await flush(vm, id);
    const output = join(dir, 'restored');
    await expectCli(0, ['restore', '--target', target, '--point', String(point.number), '--output', output]);
    for (const id of DISKS) await compareImages(join(output, `${id}.qcow2`), vm.disk(id).file!);
    await vm.control.execute('cont');
  });
});

async function sha256OfLine(line: string): Promise<string> {
  const { stdout } = await run('sh', ['-c', `echo ${line} | sha256sum`]);
  return stdout.slice(0, 64);
}
