/**
 * What can go wrong with virsh:
 *   QmpBackupError ─┬─ LibvirtUnreachable · DomainNotFound   (unreachable)
 *                   ├─ VirshMissing · VirshTimeout · VirshKilled · VirshError · LibvirtAnswerError   (failed)
 *                   └─ NotThawed ── DomainNotThawed   (failed)
 */
import { type Connect, virshCommand, whereNamesAre } from '../core/virsh-hint.js';
import { NotThawed, QmpBackupError } from '../errors.js';

export class VirshMissing extends QmpBackupError {
  constructor(cause: unknown) {
    super('failed', 'virsh was not found', { cause, hint: 'Install it: apt install libvirt-clients' });
  }
}

/** No connection to libvirtd, or one that was lost. A command that was under way has an unknown outcome. */
export class LibvirtUnreachable extends QmpBackupError {
  /** virsh's own words. */
  readonly words: string;

  constructor(command: string, uri: string | undefined, words: string) {
    super('unreachable', `libvirt${uri === undefined ? '' : ` at ${uri}`} did not answer '${command}': ${words}`, {
      hint: 'see that libvirtd (or virtqemud) runs, that --connect is right, and that this user may use it',
    });
    this.words = words;
  }
}

export class DomainNotFound extends QmpBackupError {
  readonly domain: string;

  constructor(domain: string, words: string, connect: Connect) {
    super('unreachable', `no domain ${domain}: ${words}`, {
      hint: `${whereNamesAre(connect)}; --connect chooses the libvirt that is asked`,
    });
    this.domain = domain;
  }
}

/** virsh did not end in time and was killed. libvirtd may still carry the command out. */
export class VirshTimeout extends QmpBackupError {
  readonly command: string;
  readonly timeoutMs: number;

  constructor(command: string, timeoutMs: number) {
    super('failed', `virsh ${command} did not end within ${timeoutMs / 1000} s; its outcome is unknown`, {
      hint: 'libvirtd, QEMU or its storage may be hanging; look at the domain before trying again',
    });
    this.command = command;
    this.timeoutMs = timeoutMs;
  }
}

/** Somebody ended virsh by a signal. libvirtd may still carry the command out. */
export class VirshKilled extends QmpBackupError {
  constructor(command: string, signal: string) {
    super('failed', `virsh ${command} was ended by ${signal}; its outcome is unknown`, {
      hint: 'look for who ended it (out of memory?), and at the domain before trying again',
    });
  }
}

/** Whether libvirt may have done what it was asked for, or may yet do it. */
export function isOutcomeUnknown(error: unknown): boolean {
  return error instanceof VirshTimeout || error instanceof VirshKilled || error instanceof LibvirtUnreachable;
}

/** Reasons that a caller acts upon; the words are those of libvirt 9.0 with LC_ALL=C. */
export type VirshReason =
  /** Another job (backup, migration, save …) holds the domain; libvirt has waited 30 s for it. */
  | 'job-active'
  /** There is no job that could be ended or described. */
  | 'no-job'
  /** A backup job is just beginning or ending, and cannot be described for some milliseconds. */
  | 'job-changing'
  /** The domain is shut off, or paused where that matters. */
  | 'not-running'
  | 'no-checkpoint'
  /** The checkpoint to be made, or its bitmap, is there already. */
  | 'checkpoint-exists'
  /** A bitmap that a checkpoint stands for is missing or inconsistent: `brokenBitmap` says which. */
  | 'bitmap-broken'
  /** A scratch or target file is there already. */
  | 'file-exists'
  /** No guest agent is set up or connected, or it did not answer. */
  | 'no-agent'
  /** The agent says that the file systems are frozen already. */
  | 'already-frozen'
  | 'other';

/** virsh refused or failed; `words` are its own, without `error:`, parted by `; `. */
export class VirshError extends QmpBackupError {
  readonly command: string;
  readonly words: string;
  readonly reason: VirshReason;

  constructor(command: string, words: string) {
    super('failed', `virsh ${command} failed: ${words}`);
    this.command = command;
    this.words = words;
    this.reason = reasonOf(words);
  }

  /** The disk (its target) and checkpoint of a `bitmap-broken`. */
  get brokenBitmap(): { readonly checkpoint: string; readonly target: string } | undefined {
    const [, checkpoint, target] = BROKEN_BITMAP.exec(this.words) ?? [];
    return checkpoint === undefined || target === undefined ? undefined : { checkpoint, target };
  }
}

/** As far as libvirt can tell. */
export class DomainNotThawed extends NotThawed {
  constructor(domain: ThawedByHand, why: string) {
    super(why, thawDomainByHand(domain));
  }
}

export interface ThawedByHand {
  readonly connect: Connect;
  readonly name: string;
}

export function thawDomainByHand({ connect, name }: ThawedByHand): string {
  return virshCommand(connect, 'domfsthaw', name);
}

/** What libvirt said is not what it says in the versions known. */
export class LibvirtAnswerError extends QmpBackupError {
  constructor(what: string, answer: string, options: { readonly cause?: unknown } = {}) {
    const excerpt = answer.length > 200 ? `${answer.slice(0, 200)}…` : answer;
    super('failed', `${what} could not be understood: ${JSON.stringify(excerpt)}`, options);
  }
}

// begin and --redefine-validate: "missing or broken bitmap 'c' for disk 'vda'"; checkpoint-delete: "bitmap 'c' not
// found in backing chain of 'vda'".
const BROKEN_BITMAP = /(?:missing or broken )?bitmap '([^']+)' (?:for disk|not found in backing chain of) '([^']+)'/;

/** Whether QEMU's words, through libvirt, are that the parts of a bitmap in the layers of a disk cannot be added up. */
export function isOfDifferentSizes(words: string): boolean {
  return /Bitmaps are of different sizes/.test(words);
}

const REASONS: readonly (readonly [RegExp, VirshReason])[] = [
  [/cannot acquire state change lock|another job .*active/i, 'job-active'],
  [/no job is active|no domain backup job present|does not have an active block job/, 'no-job'],
  // QEMU of a job that has just come to its end, before libvirt has heard of it.
  [/in state 'concluded' cannot accept command verb/, 'no-job'],
  [/backup job data missing/, 'job-changing'],
  [/missing or broken bitmap|not found in backing chain/, 'bitmap-broken'],
  [
    /no domain checkpoint with matching name|Checkpoint '.*' for incremental backup of disk '.*' not found/,
    'no-checkpoint',
  ],
  [/domain moment .* already exists|Bitmap already exists/, 'checkpoint-exists'],
  [/for backup of '.*' exists/, 'file-exists'],
  [/agent is in frozen state/, 'already-frozen'],
  [/guest agent is not (?:configured|connected|available|responding)|Guest agent is not responding/i, 'no-agent'],
  [/domain is not running|for inactive domain|inactive domain/, 'not-running'],
];

function reasonOf(words: string): VirshReason {
  return REASONS.find(([pattern]) => pattern.test(words))?.[1] ?? 'other';
}

const CONNECTION =
  /failed to connect to the hypervisor|Cannot recv data|End of file while reading data|client socket is closed|keepalive timeout/;
const NO_DOMAIN = /failed to get domain '|Domain not found/;

/** The error that virsh's words mean. */
export function virshFailure(
  asked: { readonly command: string; readonly domain: string | undefined; readonly uri: string | undefined },
  stderr: string,
): QmpBackupError {
  const lines = stderr.split('\n').map((line) => line.replace(/^error: /, '').trim());
  const words = lines.filter((line) => line !== '').join('; ');
  if (CONNECTION.test(words)) return new LibvirtUnreachable(asked.command, asked.uri, words);
  if (asked.domain !== undefined && NO_DOMAIN.test(words))
    return new DomainNotFound(asked.domain, words, asked.uri ?? null);
  return new VirshError(asked.command, words === '' ? 'it said nothing' : words);
}
