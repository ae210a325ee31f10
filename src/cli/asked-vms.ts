import { resolve } from 'node:path';
import { loadConfig } from '../config/config-file.js';
import { vmsOf } from '../config/discover.js';
import { refuseWrongVms, settingAt, targetOf } from '../config/vm.js';
import { type OptionRules, words } from '../core/option-rules.js';
import { timeSpan } from '../core/time-span.js';
import { type Warning, warning } from '../core/warning.js';
import { QmpBackupError } from '../errors.js';
import { brokenNotifiers, readNotified } from '../notify/notified-file.js';
import { sourcesOfConfig, sourcesOfTargets, type VmSource } from '../report/status.js';
import { historyFolderToRead, readHistory } from '../run/history.js';
import { optionOf } from './options.js';

/** Which VMs `status` and `report` are about: those of a configuration, or of folders. */
export interface AskedVmsFlags {
  readonly config?: string;
  readonly target?: readonly string[];
  /** Days. */
  readonly maxAge?: number;
}

const ASKED_VMS_OPTIONS = {
  target: words('--target'),
  maxAge: timeSpan('--max-age'),
} satisfies OptionRules;

export const TARGETS_OPTION = optionOf(
  ASKED_VMS_OPTIONS.target,
  'instead of a configuration: folder of the backups, or the one above several; repeatable',
  { short: '-t', value: '<dir>' },
);

export const MAX_AGE_OPTION = optionOf(
  ASKED_VMS_OPTIONS.maxAge,
  'how old the newest good point may be, such as 26h, where the configuration does not say it',
  { value: '<time>' },
);

export interface AskedVms {
  /** Absolute path; null where targets were named. */
  readonly config: string | null;
  readonly targets: readonly string[];
  /** Where pictures of boot tests are kept, as far as the configuration says it. */
  readonly evidence: readonly string[];
  /** Why there may be more VMs. */
  readonly failures: readonly string[];
  /** Why not all is known of them, those among them. */
  readonly unknown: readonly string[];
  readonly warnings: readonly Warning[];
  readonly sources: (now: Date) => Promise<readonly VmSource[]>;
}

/** @throws QmpBackupError `usage` */
export async function askedVms({ config: named, target, maxAge }: AskedVmsFlags): Promise<AskedVms> {
  if (named !== undefined && target !== undefined) {
    throw new QmpBackupError('usage', '--config and --target exclude each other', { hint: 'Give one of them.' });
  }
  const maxAgeMs = maxAge === undefined ? null : maxAge * DAY_MS;
  if (target !== undefined) {
    const targets = [...new Set(target.map((each) => resolve(each)))];
    return {
      config: null,
      targets,
      evidence: [],
      failures: [],
      unknown: [],
      warnings: [],
      sources: (now) => sourcesOfTargets(targets, { now, maxAgeMs }),
    };
  }
  const config = await loadConfig(named);
  const { vms, failures } = await vmsOf(config);
  refuseWrongVms(config, vms);
  const folder = await historyFolderToRead(config.file);
  const { history, lost } = await readHistory(config.file, folder);
  const broken = brokenNotifiers((await readNotified(config.file, folder)).notified, config.notify);
  const notKnown = lost === null ? [] : [`how earlier runs went is not known: ${lost}`];
  const warnings = [
    ...broken.map((why) => warning('not-notified', why)),
    ...failures.map((why) => warning('not-discovered', why)),
    ...notKnown.map((why) => warning('history-lost', why)),
  ];
  return {
    config: config.file,
    targets: [...vms.map(targetOf), ...history.vms.map((each) => each.target)],
    evidence: vms.flatMap((vm) => settingAt(vm, 'verify.evidence') ?? []),
    failures,
    unknown: [...failures, ...notKnown],
    warnings,
    sources: (now) => Promise.resolve(sourcesOfConfig(vms, history, { now, maxAgeMs, isAll: failures.length === 0 })),
  };
}

const DAY_MS = 86_400_000;
