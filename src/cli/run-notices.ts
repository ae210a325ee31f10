import type { Config } from '../config/config.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { warning } from '../core/warning.js';
import {
  NOTIFY_TIMES,
  type Notification,
  type NotifyContext,
  notifyOfEnd,
  notifyOfLockedOut,
  notifyOfStart,
} from '../notify/notify.js';
import type { RunOutcome } from '../notify/outcome.js';
import { readHistory, type VmHistory, withVm } from '../run/history.js';
import type { CommandContext } from './wiring.js';

/** Has the notifiers of a configuration told of one run, and says who could not be. */
export interface RunNotices {
  /** It has begun: the dead-man switches hear of it meanwhile. */
  readonly started: () => void;
  readonly ended: (ran: EndedRun) => Promise<readonly Notification[]>;
  /** It has failed as a whole. Never rejects. */
  readonly failed: (error: unknown) => Promise<void>;
}

export interface EndedRun {
  readonly ended: readonly VmHistory[];
  readonly notBegun: readonly string[];
  readonly notKept: string | null;
  readonly vms: readonly string[];
  readonly failures: readonly string[];
}

/** `isWhole`: it is for all VMs. */
export function createRunNotices(
  config: Config,
  isWhole: boolean,
  { now, signal, warn, log }: CommandContext,
): RunNotices {
  const begunAt = now();
  const context: NotifyContext = {
    now,
    signal,
    warn: (text) => warn(warning('not-notified', text)),
    times: NOTIFY_TIMES,
  };
  let starting: Promise<readonly Notification[]> = Promise.resolve([]);
  const say = (notifications: readonly Notification[]): readonly Notification[] => {
    for (const { notifier, what, failed } of notifications) {
      if (failed === null) log.write('info', `${notifier} was told: ${what.join(', ')}`);
      else warn(warning('not-notified', `${notifier} could not be told (${what.join(', ')}): ${failed}`));
    }
    return notifications;
  };
  const outcomeOf = async (
    told: Pick<RunOutcome, 'vms' | 'notBegun' | 'problems'>,
    ended: readonly VmHistory[],
  ): Promise<RunOutcome> => {
    const { history } = await readHistory(config.file);
    // Where it could not be kept it has happened all the same.
    const latest = ended.reduce(withVm, history);
    return { config: config.file, begunAt, endedAt: now(), history: latest, isWhole, ...told };
  };
  const end = async (notify: typeof notifyOfEnd, outcome: RunOutcome): Promise<readonly Notification[]> => {
    // A dead-man switch hears of the end after the beginning.
    const first = say(await starting);
    return [...first, ...say(await notify(config, outcome, context))];
  };
  return {
    started: () => {
      // What is run by hand for one VM says nothing of the others.
      if (!isWhole) return;
      starting = notifyOfStart(config, context);
      // What comes of it is told at the end.
      starting.catch(() => undefined);
    },
    ended: async ({ ended, notBegun, notKept, vms, failures }) => {
      const late = notBegun.length === 0 ? [] : [`${notBegun.join(', ')}: not begun`];
      const lost = notKept === null ? [] : [`what came of this run is not remembered: ${notKept}`];
      return end(notifyOfEnd, await outcomeOf({ vms, notBegun, problems: [...failures, ...late, ...lost] }, ended));
    },
    failed: async (error) => {
      // A name that was mistyped is for who has typed it.
      if (!isWhole && error instanceof QmpBackupError && error.code === 'usage') return;
      const isLocked = error instanceof QmpBackupError && error.code === 'locked';
      try {
        const outcome = await outcomeOf({ vms: null, notBegun: [], problems: [messageOf(error)] }, []);
        await end(isLocked ? notifyOfLockedOut : notifyOfEnd, outcome);
      } catch (other) {
        // The first failure is the one that the run ends with.
        warn(warning('not-notified', `nobody was told of this run: ${messageOf(other)}`));
      }
    },
  };
}
