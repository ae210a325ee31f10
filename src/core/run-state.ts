/**
 * What the state of a VM means for a backup. A backup, its dry run, `doctor` and every repair go by this table: a VM whose
 * disks another QEMU owns, or is about to own, is left alone.
 */
export type Meaning =
  /** The guest writes: where several commands are one instant, it is stopped meanwhile. */
  | { readonly kind: 'runs' }
  /** The guest stands still, and its disks are its own: as after a power cut. */
  | { readonly kind: 'stands' }
  | {
      readonly kind: 'refused';
      /** As the end of "the VM …". */
      readonly why: string;
      readonly todo: string;
    };

const RUNS: Meaning = { kind: 'runs' };
const STANDS: Meaning = { kind: 'stands' };

function refused(why: string, todo: string): Meaning {
  return { kind: 'refused', why, todo };
}

const AFTER_MIGRATION =
  'Run it again when the migration has ended, against the monitor of the VM that the guest then runs in.';

/** By `status` of `query-status`. */
export const RUN_STATES: Readonly<Record<string, Meaning>> = {
  running: RUNS,
  // Asleep in its memory; it may wake by itself.
  suspended: STANDS,
  prelaunch: STANDS,
  paused: STANDS,
  debug: STANDS,
  'io-error': STANDS,
  watchdog: STANDS,
  'guest-panicked': STANDS,
  'internal-error': STANDS,
  // With -no-shutdown: the guest has turned itself off.
  shutdown: STANDS,
  inmigrate: refused(
    'waits for an incoming migration: its disks still belong to the VM that the guest comes from',
    'Back up the VM that the guest runs in now; or run it again when it has arrived here.',
  ),
  'finish-migrate': refused('is handing its guest over to another QEMU (finish-migrate)', AFTER_MIGRATION),
  postmigrate: refused(
    'was migrated away (postmigrate): its guest and its disks belong to another QEMU now',
    'Back up the VM that the guest runs in now. If that one is gone for good, "cont" in this monitor takes the guest back; ' +
      'a migration to a file leaves nothing to back up here until then.',
  ),
  'restore-vm': refused(
    'is going back to a snapshot, or was refused to (restore-vm), and its guest stands still',
    'If a loadvm was refused, the disks are as they were: "cont" in its monitor lets the guest go on.',
  ),
  'save-vm': refused('is saving its memory (save-vm)', 'Run it again when that has ended.'),
  colo: refused('is replicated by COLO', 'Back it up when the replication has ended.'),
};

/** `status` of `query-migrate` where none is under way. */
const AT_REST: readonly string[] = ['none', 'completed', 'failed', 'cancelled'];

/** `status` of `query-migrate` where one is; what is said of it. Whatever else a QEMU calls it counts as one, too. */
export const MIGRATING: Readonly<Record<string, string>> = {
  setup: 'is being set up',
  active: 'is under way',
  'pre-switchover': 'waits for its last step to be allowed',
  device: 'is in its last step',
  'wait-unplug': 'waits for a device to be unplugged',
  cancelling: 'is being cancelled',
  'postcopy-active': 'has moved the guest, and is fetching the rest of its memory (postcopy)',
  'postcopy-paused': 'has moved the guest, and has lost its connection (postcopy)',
  'postcopy-recover-setup': 'has moved the guest, and is being taken up again (postcopy)',
  'postcopy-recover': 'has moved the guest, and is being taken up again (postcopy)',
  colo: 'is replicating the guest (COLO)',
};

export interface SeenState {
  /** `status` of `query-status`. */
  readonly status: string;
  readonly running: boolean;
  /** `status` of `query-migrate`; null where there has been no migration. */
  readonly migration: string | null;
  /** QEMU has given up its right to write to the disks, or has not got it yet. */
  readonly inactive: boolean;
}

export function meaningOf({ status, running, migration, inactive }: SeenState): Meaning {
  const meaning = Object.hasOwn(RUN_STATES, status) ? RUN_STATES[status] : undefined;
  if (meaning?.kind === 'refused') return meaning;
  if (migration !== null && !AT_REST.includes(migration)) {
    const what = Object.hasOwn(MIGRATING, migration) ? MIGRATING[migration] : `is under way (${migration})`;
    return refused(`is being migrated: the migration ${what}`, AFTER_MIGRATION);
  }
  if (inactive && !running) {
    return refused(
      `stands still (${status}), and its disks are not its own: QEMU has them inactive, as after a migration to or from another`,
      'Back up the VM that the guest runs in. If that is this one, let it go on first: "cont" in its monitor.',
    );
  }
  if (meaning) return meaning;
  if (running) return RUNS;
  return refused(`is in a state that is not known here (${status})`, 'Run it again when its guest runs.');
}
