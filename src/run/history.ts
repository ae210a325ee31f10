import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, isAbsolute, join } from 'node:path';
import * as v from 'valibot';
import { collectFailure } from '../flow/collect-failure.js';
import { fileError } from '../host/file-errors.js';
import { isThere } from '../host/is-there.js';
import { readRemembered, writeRemembered } from './remembered.js';

/**
 * What is remembered of the runs of one configuration, `history.json` in a folder of its own: how the last run of each VM went, and
 * when each check was made. Truth about points stays in the targets; without this file nothing is lost but that knowledge.
 */
const HISTORY_SCHEMA = 1;

const time = v.string();
const texts = v.pipe(v.array(v.string()), v.readonly());

export const RESULTS = ['ok', 'warnings', 'failed', 'skipped'] as const;
export type VmResult = (typeof RESULTS)[number];

/** A hook of a VM is a step as others are. */
export const HOOK_VERBS = ['before-hook', 'after-hook', 'on-error-hook'] as const;

const step = v.object({
  verb: v.picklist(['backup', 'prune', 'verify', 'boot', ...HOOK_VERBS]),
  at: time,
  durationMs: v.number(),
  exitCode: v.number(),
  result: v.picklist(RESULTS),
  /** What failed and why, what was found, or why it was left out; null where it is simply done. */
  why: v.nullable(v.string()),
  hint: v.nullable(v.string()),
  warnings: texts,
  /** What was done, in a line. */
  summary: v.nullable(v.string()),
});

const vmRun = v.object({
  /** When it was begun and ended for this VM. */
  at: time,
  endedAt: time,
  result: v.picklist(RESULTS),
  steps: v.pipe(v.array(step), v.readonly()),
});

const point = v.object({
  at: time,
  name: v.string(),
  level: v.string(),
  bytes: v.number(),
  durationMs: v.number(),
  frozenMs: v.nullable(v.number()),
  pausedMs: v.nullable(v.number()),
});

const vmHistory = v.object({
  vm: v.string(),
  /** Absolute; of `--monthly` the folder above. */
  target: v.string(),
  /** The folder of the last point; null before the first. */
  folder: v.nullable(v.string()),
  /** The last run. */
  run: vmRun,
  /** The last backup that succeeded. */
  backup: v.nullable(point),
  /** Since which run it fails; null where all that had failed was done again, and went well. */
  failingSince: v.nullable(time),
  /** When a check was last passed. */
  checks: v.object({ verify: v.nullable(time), boot: v.nullable(time) }),
});

const history = v.object({
  schema: v.literal(HISTORY_SCHEMA),
  config: v.string(),
  vms: v.pipe(v.array(vmHistory), v.readonly()),
});

export type StepRecord = v.InferOutput<typeof step>;
export type VmHistory = v.InferOutput<typeof vmHistory>;
export type RunHistory = v.InferOutput<typeof history>;

/** Where the history of a configuration is kept. `env`: `STATE_DIRECTORY` is what systemd gives a unit. */
export function historyFolder(config: string, env: NodeJS.ProcessEnv = process.env): string {
  return folderIn(stateFolder(env), config);
}

/**
 * Where to read it: who has never run a configuration of root's, as a monitoring user, asks for the runs of root.
 *
 * @throws QmpBackupError where the configuration cannot be looked at
 */
export async function historyFolderToRead(config: string): Promise<string> {
  const own = historyFolder(config);
  if (process.getuid?.() === 0 || process.env['STATE_DIRECTORY']) return own;
  const { uid } = await stat(config).catch((error: unknown) => {
    throw fileError('look at', config, error);
  });
  if (uid !== 0 || (await collectFailure(isThere(own))) === true) return own;
  return folderIn(STATE_OF_ROOT, config);
}

function folderIn(state: string, config: string): string {
  const digest = createHash('sha256').update(config).digest('hex').slice(0, 12);
  return join(state, `${basename(config).replace(/[^\w.-]/g, '_')}-${digest}`);
}

const STATE_OF_ROOT = '/var/lib/qmpbackup';

function stateFolder(env: NodeJS.ProcessEnv): string {
  const ofUnit = env['STATE_DIRECTORY']?.split(':')[0];
  if (ofUnit) return ofUnit;
  if (process.getuid?.() === 0) return STATE_OF_ROOT;
  const ofUser = env['XDG_STATE_HOME'];
  return join(ofUser !== undefined && isAbsolute(ofUser) ? ofUser : join(homedir(), '.local', 'state'), 'qmpbackup');
}

export function historyPath(folder: string): string {
  return join(folder, 'history.json');
}

export interface KnownHistory {
  readonly history: RunHistory;
  /** Why nothing is known although there is a file; null where that is not so. */
  readonly lost: string | null;
}

/** What is remembered. A file that cannot be used holds up no run: it is begun anew. */
export async function readHistory(config: string, folder: string = historyFolder(config)): Promise<KnownHistory> {
  const { value, lost } = await readRemembered(historyPath(folder), history);
  return { history: value ?? { schema: HISTORY_SCHEMA, config, vms: [] }, lost };
}

/** With what came of one VM, durably. For who holds the lock of the configuration. */
export async function writeHistory({ config, vms }: RunHistory): Promise<void> {
  const lines = vms.map((each) => JSON.stringify(each)).join(',\n');
  const text = `{"schema":${HISTORY_SCHEMA},"config":${JSON.stringify(config)},"vms":[\n${lines}\n]}\n`;
  await writeRemembered(historyPath(historyFolder(config)), text);
}

export function historyOf({ vms }: RunHistory, name: string): VmHistory | undefined {
  return vms.find(({ vm }) => vm === name);
}

export function withVm(known: RunHistory, latest: VmHistory): RunHistory {
  return { ...known, vms: [...known.vms.filter(({ vm }) => vm !== latest.vm), latest] };
}
