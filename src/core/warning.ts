/** What there is to warn of, each with a code that stays as it is; the words may change. docs/json.md lists the same. */
export const WARNING_CODES = {
  'disk-left-out': 'a writable disk is not in the point, as it cannot be backed up',
  'disk-failed': 'a disk is not in the point, as it could not be copied now',
  'disk-renamed': 'an image was named after another disk than its bitmap says',
  'disk-untracked': 'changes of a disk are not tracked, so that its backups are full',
  'bitmap-not-stored': 'a disk is tracked only until QEMU ends',
  'plaintext-copy': 'the source is encrypted, its backup is not',
  'not-frozen': 'the guest was not frozen: the point is `crash`',
  'not-fleeced': 'the run is not fleeced, although there was a reason to',
  'not-verified': '`--verify` could not compare a disk',
  'not-locked': 'no lock keeps others from changing what is read',
  'no-guard': 'no process guards the run: should it be killed, the next one has to tidy up',
  'target-may-hang': 'should the target hang, the guest may hang with it',
  'full-postponed': 'a FULL that is due by `--auto-full-after` does not fit: the chain goes on',
  'space-short': 'the space may be too little',
  'guest-paused': 'the guest was paused by a write that failed',
  'guest-frozen': 'an earlier run may have left the guest frozen',
  'domain-left-running': 'a domain that was started paused for its backup was let go on by somebody',
  'foreign-job-ended': "`--kill-job` ended somebody else's job",
  'bitmap-stuck': 'a bitmap that is to go cannot be removed now',
  'overlay-left': 'an overlay above a disk of a domain cannot be merged into it now',
  'overlay-in-memory': 'overlays that stay are gone when the host restarts, with what the guest wrote to them',
  'left-behind': 'something of a run is left behind, which takes space or waits for the next run',
  'not-booted': '`verify --boot` started no point',
  'not-remembered': 'what came of `verify --boot` is not kept',
  'files-damaged': 'files of the backup are gone or altered; points are lost with them',
  'read-damaged': '`serve` or `mount` has handed out bytes that are not those that were backed up',
  'parent-rotten': 'a file that the disk was compared with has rotted: the new point is whole, earlier ones are not',
  'memory-lost': '`verified.json` cannot be used: what verify has found before is not known',
  'month-unreadable': 'an older month of the target cannot be read',
  'definition-incomplete': 'something of the definition of a domain is not in the point',
  'definition-lost': 'the definition of a domain could not be restored',
  'definition-changed': 'the definition of a restored domain differs from the original',
  'tpm-not-placed': 'the state of a TPM is restored and not where libvirt looks for it',
  'no-autostart': 'a restored domain does not start with the host as the original does',
  'device-incomplete': 'a block device was written in part: what was on it is lost',
  'point-lacks-disk': 'a disk of the VM is not in the point',
  suspect: 'the content of a file may be wrong where its tool left zeroed areas out',
  unproven: 'there is no catalog: nothing proves what belongs together',
  'file-ignored': 'a file in the folder belongs to no backup',
  'file-left-out': 'a file of a guest is not written, being of a kind or name that cannot be, or in another place, too',
  'not-looked-at': 'a file system or a point was not looked at, which may hold what was looked for, too',
  'older-state': 'of a disk an older state is restored',
  'vm-unknown': 'nothing tells which VM a backup is of',
  'dead-run': 'a run died in the target: its files are left alone',
  'vm-failed': '`run` could not back up, prune or check a VM, or not all of it',
  'vm-warned': '`run` was warned of something when it backed up, pruned or checked a VM',
  'vm-not-begun': '`run` did not begin with a VM, as it was too late',
  'not-discovered': 'VMs could not be looked for: there may be more of them',
  'no-vms': 'a configuration names no VM, and none is found by it',
  'report-failed': '`run` could not write the report that is configured',
  'history-lost': 'how runs went is not known, or not remembered',
  'hook-failed': 'a command that is run after a run failed',
  'not-notified': 'a notifier could not be told of a run, or it is not known what it was told',
  'bare-secret': 'the configuration has a secret in it and can be read by everybody',
  'clusters-leaked': 'an image has clusters that waste space',
} as const;

export type WarningCode = keyof typeof WARNING_CODES;

export interface Warning {
  readonly code: WarningCode;
  readonly text: string;
}

/** What a disk is like, or who does not hear of it: it is told, and no fault of a run. */
const STANDING: readonly WarningCode[] = ['disk-untracked', 'bitmap-not-stored', 'plaintext-copy', 'not-notified'];

/** Whether it makes a run that is `--strict` end with 5. */
export function countsWhereStrict({ code }: Warning): boolean {
  return !STANDING.includes(code);
}

export type Warn = (warning: Warning) => void;

export function warning(code: WarningCode, text: string): Warning {
  return { code, text };
}
