import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { crashArguments } from '../crash-point.js';
import { patient } from '../patience.js';
import { type CatalogPoint, readCatalogOf, strayFiles } from './leftovers.js';
import type { UpkeepAction, UpkeepFault, UpkeepStep } from './upkeep-steps.js';

/** Prune, consolidate, pin and verify in a sequence: what they may take away, and what they leave. */
export interface UpkeptTarget {
  readonly dir: string;
  /** Ids of the points that are pinned. */
  readonly pinned: Set<string>;
  /** Compares all points that its catalog names with what the disks held; throws if one is gone but for those of `mayGo`, or new. */
  readonly look: (mayGo: ReadonlySet<string>) => Promise<void>;
}

export interface UpkeepTool {
  /** `bin/qmpbackup.js` of the build under test. */
  readonly program: string;
  /** A folder for its own, which is there. */
  readonly dir: string;
}

/**
 * Runs the command of a step. Throws where it does not end as it has to, takes another point than it may, or any that stays has
 * not its bytes; and unless it is done in whole or not at all. False where there is nothing that it could be done to.
 */
export async function keepUp(
  step: UpkeepStep,
  target: UpkeptTarget,
  tool: UpkeepTool,
): Promise<'done' | 'faulted' | false> {
  const points = (await readCatalogOf(target.dir))?.points ?? [];
  if (points.length === 0) return false;
  // Of a backup that was killed, which only the next backup takes away.
  const strays = new Set(await strayFiles(target.dir));
  const plan = await foresee(step.action, points, target, tool);
  const first = await attempt(plan, step.fault, target, tool);
  if (first !== 'killed' || step.again) {
    if (first !== 'done' && step.again) await attempt(plan, { kind: 'none' }, target, tool);
    const left = (await strayFiles(target.dir)).filter((file) => !strays.has(file));
    if (left.length > 0) throw new Error(`files are left: ${left.join(', ')}`);
    const retired = (await readCatalogOf(target.dir))?.retiredFiles;
    const tidies = step.action.verb === 'prune' || step.action.verb === 'consolidate';
    if (tidies && retired)
      throw new Error(`the catalog still names what was to be removed: ${JSON.stringify(retired)}`);
  }
  return first === 'done' ? 'done' : 'faulted';
}

/** What a command has to come to. */
interface Plan {
  readonly args: readonly string[];
  readonly exitCode: number;
  /** Ids of the points that go. */
  readonly going: ReadonlySet<string>;
  /** Ids of the points that are pinned then. */
  readonly pinned: ReadonlySet<string>;
}

async function attempt(
  plan: Plan,
  fault: UpkeepFault,
  target: UpkeptTarget,
  tool: UpkeepTool,
): Promise<'done' | 'killed' | 'refused'> {
  const run = await runUpkeep(plan.args, fault, tool);
  const ending = `qmpbackup ${plan.args.join(' ')} ended with ${run.signal ?? run.exitCode}:\n${run.stderr}`;
  const killed = run.signal === 'SIGKILL';
  if (run.signal !== undefined && fault.kind !== 'kill') throw new Error(`nobody killed it; ${ending}`);
  const exitCode = run.spoiled ? FAILED : plan.exitCode;
  if (!killed && run.exitCode !== exitCode) throw new Error(`it must end with ${exitCode}; ${ending}`);

  await target.look(plan.going);
  const points = (await readCatalogOf(target.dir))?.points ?? [];
  const left = points.filter(({ id }) => plan.going.has(id)).length;
  if (left > 0 && left < plan.going.size) throw new Error(`a part of the points is gone; ${ending}`);
  if (left > 0 && !killed && !run.spoiled) throw new Error(`points are there that were to go; ${ending}`);
  if (left === 0 && plan.going.size > 0 && run.spoiled) throw new Error(`points have gone; ${ending}`);

  const pinned = points.filter((point) => point.pinned).map(({ id }) => id);
  const isBefore = isSame(pinned, target.pinned) && killed;
  if (!isBefore && !isSame(pinned, plan.pinned)) throw new Error(`${pinned.join(', ')} are pinned; ${ending}`);
  target.pinned.clear();
  for (const id of pinned) target.pinned.add(id);
  return killed ? 'killed' : run.spoiled ? 'refused' : 'done';
}

const FAILED = 1;
const UNSAFE = 13;

function isSame(ids: readonly string[], others: ReadonlySet<string>): boolean {
  return ids.length === others.size && ids.every((id) => others.has(id));
}

// --- what has to come of it --------------------------------------------------------------------------------------------

async function foresee(
  action: UpkeepAction,
  points: readonly CatalogPoint[],
  target: UpkeptTarget,
  tool: UpkeepTool,
): Promise<Plan> {
  const at = ['--target', target.dir];
  const nothing = { exitCode: 0, going: new Set<string>(), pinned: new Set(target.pinned) };
  switch (action.verb) {
    case 'prune': {
      const args = ['prune', ...at, ...action.rules, ...(action.consolidate ? ['--consolidate'] : [])];
      const going = new Set(await droppedBy(args, target, tool));
      refuseGoing(going, stayingByRule(action.rules, points, target));
      return { ...nothing, args, going };
    }
    case 'consolidate': {
      const chained = points.filter(({ chain }) => chain !== null);
      const head = 'keep' in action ? chained.at(-1) : chained[action.until % chained.length];
      if (!head) return { ...nothing, args: ['consolidate', ...at, '--keep', '1'] };
      const args = ['consolidate', ...at, ...('keep' in action ? ['--keep', `${action.keep}`] : ['--until', head.id])];
      const chain = chained.filter((point) => point.chain === head.chain);
      const merged = chain.slice(0, 'keep' in action ? -action.keep : chain.indexOf(head)).map(({ id }) => id);
      const { exitCode, going } = await mergedBy(args, target, tool);
      if (exitCode === UNSAFE) return { ...nothing, args, exitCode };
      if (!isSame(going, new Set(merged))) throw new Error(`${going.join()} would be merged, and not ${merged.join()}`);
      refuseGoing(new Set(going), target.pinned);
      return { ...nothing, args, going: new Set(going) };
    }
    case 'pin':
    case 'unpin': {
      const { id } = points.at(action.point % points.length)!;
      const pinned = new Set(target.pinned);
      if (action.verb === 'pin') pinned.add(id);
      else pinned.delete(id);
      return { ...nothing, args: [action.verb, id, ...at], pinned };
    }
    case 'verify':
      return { ...nothing, args: ['verify', ...at, ...(action.readData ? ['--read-data'] : [])] };
  }
}

function refuseGoing(going: ReadonlySet<string>, staying: ReadonlySet<string>): void {
  const lost = [...staying].filter((id) => going.has(id));
  if (lost.length > 0) throw new Error(`${lost.join(', ')} would go, and must stay`);
}

/** What stays whatever the rest of the rules says; of all of which is known that they are good. */
function stayingByRule(
  rules: readonly string[],
  points: readonly CatalogPoint[],
  { pinned }: UpkeptTarget,
): ReadonlySet<string> {
  const newestFirst = [...points].reverse().toSorted((a, b) => Date.parse(b.createdAt) - Date.parse(a.createdAt));
  const last = rules[rules.indexOf('--keep-last') + 1];
  const count = rules.includes('--keep-last') ? Number(last) : 1;
  const tracked = points.findLast(({ chain }) => chain !== null);
  return new Set([...pinned, ...[...newestFirst.slice(0, count), ...(tracked ? [tracked] : [])].map(({ id }) => id)]);
}

interface PruneAnswer {
  readonly histories: readonly { readonly points: readonly { readonly id: string; readonly kept: boolean }[] }[];
}

async function droppedBy(args: readonly string[], target: UpkeptTarget, tool: UpkeepTool): Promise<readonly string[]> {
  const { exitCode, stdout, stderr } = await dryRun(args, target, tool);
  if (exitCode !== 0) throw new Error(`the dry run of ${args.join(' ')} ended with ${exitCode}:\n${stderr}`);
  const { histories } = JSON.parse(stdout) as PruneAnswer;
  return histories.flatMap(({ points }) => points.flatMap(({ id, kept }) => (kept ? [] : [id])));
}

interface ConsolidateAnswer {
  readonly chains: readonly { readonly merged: readonly { readonly id: string }[] }[];
}

/** The only reasons that there are in a sequence. */
const REFUSALS = /is pinned|no later point has the disk|build on it/;

async function mergedBy(
  args: readonly string[],
  target: UpkeptTarget,
  tool: UpkeepTool,
): Promise<{ readonly exitCode: number; readonly going: readonly string[] }> {
  const { exitCode, stdout, stderr } = await dryRun(args, target, tool);
  if (exitCode === UNSAFE && REFUSALS.test(stderr)) return { exitCode, going: [] };
  if (exitCode !== 0) throw new Error(`the dry run of ${args.join(' ')} ended with ${exitCode}:\n${stderr}`);
  const { chains } = JSON.parse(stdout) as ConsolidateAnswer;
  return { exitCode, going: chains.flatMap(({ merged }) => merged.map(({ id }) => id)) };
}

async function dryRun(args: readonly string[], { dir }: UpkeptTarget, tool: UpkeepTool): Promise<UpkeepRun> {
  const catalog = (): Promise<string> => readFile(join(dir, 'catalog.json'), 'utf8');
  const before = await catalog();
  const run = await runUpkeep(['--json', ...args, '--dry-run'], { kind: 'none' }, tool);
  if ((await catalog()) !== before) throw new Error(`the dry run of ${args.join(' ')} changed the catalog`);
  return run;
}

// --- the command -------------------------------------------------------------------------------------------------------

interface UpkeepRun {
  readonly exitCode: number | undefined;
  readonly signal: string | undefined;
  readonly stdout: string;
  readonly stderr: string;
  /** A new file did not hold what was written to it. */
  readonly spoiled: boolean;
}

const RUN_MS = patient(120_000);

async function runUpkeep(
  args: readonly string[],
  fault: UpkeepFault,
  { program, dir }: UpkeepTool,
): Promise<UpkeepRun> {
  const crash = fault.kind === 'kill' ? crashArguments({ ...fault, matches: /./ }) : [];
  const storage = fault.kind === 'wrong-bytes' ? await mkdtemp(join(dir, 'storage-')) : undefined;
  const path = storage === undefined ? {} : { PATH: await wrongStorage(storage) };
  const result = await execa(process.execPath, [...crash, program, ...args], {
    ...{ reject: false, timeout: RUN_MS, killSignal: 'SIGKILL', detached: true },
    env: { NO_COLOR: '1', ...path },
  });
  if (result.timedOut) throw new Error(`qmpbackup ${args.join(' ')} hangs:\n${result.stderr}`);
  const spoiled = storage !== undefined && existsSync(join(storage, 'spoiled'));
  if (storage !== undefined) await rm(storage, { recursive: true });
  const { exitCode, signal, stdout, stderr } = result;
  return { exitCode, signal, stdout, stderr, spoiled };
}

const SECTOR = 512;

/**
 * A PATH with a qemu-img that writes over the first sector of a new image when it is filled: after the `convert` that makes a
 * FULL, or the `check` of one that was moved, before the `map` by which an increment is looked at. In the sector are two values; a
 * write of the torture has but one.
 */
async function wrongStorage(dir: string): Promise<string> {
  const [bin, sector] = [join(dir, 'bin'), join(dir, 'sector')];
  await mkdir(bin);
  await writeFile(sector, Buffer.alloc(SECTOR, 'ab'));
  // A daemon may have it open: storage asks nobody either.
  const open = `--image-opts driver=qcow2,file.driver=file,file.locking=off,file.filename="$image"`;
  const spoil = `qemu-io -c 'write -s ${sector} 0 ${SECTOR}' ${open} >/dev/null && touch ${dir}/spoiled`;
  const script = [
    '#!/bin/bash',
    `PATH=\${PATH#${bin}:}`,
    `spoil() { for image; do ${spoil}; done; }`,
    'if [[ $1 = map && $* = *.partial* ]]; then spoil *.partial; fi',
    'qemu-img "$@" || exit',
    'if [[ $1 = convert ]]; then spoil *.partial; fi',
    `if [[ $1 = check && ! -e ${dir}/spoiled && $* =~ /[^\\"]*/FULL-[^\\"]*partial ]]; then spoil "\${BASH_REMATCH[0]}"; fi`,
  ];
  await writeFile(join(bin, 'qemu-img'), `${script.join('\n')}\n`);
  await chmod(join(bin, 'qemu-img'), 0o755);
  return `${bin}:${process.env['PATH'] ?? ''}`;
}
