import type { Meaning } from './run-state.js';
import { type Connect, virshCommand } from './virsh-hint.js';

/** What a libvirt domain's state and its reason, as `virsh domstate --reason` says them, mean for a backup. */
export type DomainMeaning = Meaning | { readonly kind: 'off' };

const RUNS: DomainMeaning = { kind: 'runs' };
const STANDS: DomainMeaning = { kind: 'stands' };
const OFF: DomainMeaning = { kind: 'off' };

function refused(why: string, todo: string): DomainMeaning {
  return { kind: 'refused', why, todo };
}

const WHERE_IT_RUNS = 'Back it up where its guest runs: --connect URI names the libvirt that is asked.';
const POSTCOPY = refused('is being migrated: its guest has moved, and its memory follows (post-copy)', WHERE_IT_RUNS);
/** libvirt's own word for it. */
const NO_STATE = 'no state';
const LATER = 'Run it again when that has ended.';

interface Row {
  readonly otherwise: DomainMeaning;
  /** Where a reason makes a difference. */
  readonly reasons: Readonly<Record<string, DomainMeaning>>;
}

export const DOMAIN_STATES: Readonly<Record<string, Row>> = {
  running: { otherwise: RUNS, reasons: { 'post-copy': POSTCOPY, 'post-copy failed': POSTCOPY } },
  idle: { otherwise: RUNS, reasons: {} },
  // Its guest turns itself off, and writes until it has.
  'in shutdown': { otherwise: RUNS, reasons: {} },
  pmsuspended: { otherwise: STANDS, reasons: {} },
  // Of a domain that is preserved when its guest panics: its QEMU is still there.
  crashed: { otherwise: STANDS, reasons: {} },
  paused: {
    otherwise: STANDS,
    reasons: {
      migrating: refused('is being migrated, and its guest stands still for that', WHERE_IT_RUNS),
      'post-copy': POSTCOPY,
      'post-copy failed': POSTCOPY,
      saving: refused('is being saved: its guest stands still, and it is off when that has ended', LATER),
      dumping: refused('stands still while its memory is dumped', LATER),
      'creating snapshot': refused('stands still while a snapshot of it is made', LATER),
      'starting up': refused('is just being started', LATER),
      'shutting down': refused('is just ending', LATER),
    },
  },
  'shut off': {
    otherwise: OFF,
    reasons: {
      migrated: refused(
        'was migrated away: what is defined here are the remains, and its images belong to the libvirt that it runs under now',
        `${WHERE_IT_RUNS} If its images are at rest for good, --offline DISK=FILE reads them.`,
      ),
    },
  },
};

/** Of a domain by its name, and its libvirt. */
export function meaningOfDomain(
  state: string,
  reason: string,
  { connect, name }: { readonly connect: Connect; readonly name: string },
): DomainMeaning {
  const row = Object.hasOwn(DOMAIN_STATES, state) ? DOMAIN_STATES[state] : undefined;
  if (!row) {
    const why =
      state === NO_STATE ? 'has no state that libvirt could tell' : `is in a state that is not known here (${state})`;
    return refused(why, `See: ${virshCommand(connect, 'domstate', '--reason', name)}`);
  }
  return (Object.hasOwn(row.reasons, reason) ? row.reasons[reason] : undefined) ?? row.otherwise;
}
