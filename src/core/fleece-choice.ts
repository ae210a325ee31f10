import { QmpBackupError } from '../errors.js';

/**
 * Whether a run fleeces. A plain backup job copies old data to the target before each guest write, so a target that is
 * full, slow or gone harms the guest; with fleecing it harms the backup only, for the price of local scratch space and a
 * pause of milliseconds.
 */
export type FleeceMode = 'auto' | 'always' | 'never';

export interface FleeceQuestion {
  readonly mode: FleeceMode;
  /** `--verify` compares the point with the frozen instant, which only fleecing keeps. */
  readonly verify: boolean;
  /** The target is on a network file system, which can hang. */
  readonly network: boolean;
  /** Bytes per second; 0 is no limit. */
  readonly speedLimit: number;
  readonly spaceIsShort: boolean;
  /** Why this QEMU or VM cannot fleece, or null. */
  readonly obstacle: string | null;
  /** QEMU's own backup job can break itself instead of a guest write (10.1 and later). */
  readonly jobBreaksItself: boolean;
}

export interface FleeceChoice {
  readonly fleece: boolean;
  /** For people. */
  readonly why: string;
}

/** Throws `usage` for what contradicts itself, `unsafe` where fleecing was demanded and is impossible. */
export function chooseFleece(question: FleeceQuestion): FleeceChoice {
  const { mode, verify, obstacle } = question;
  if (mode === 'never' && verify) {
    throw new QmpBackupError('usage', '--verify compares with the frozen instant, which --fleece never does not keep', {
      hint: 'Leave --fleece out, or prove the point later by a restore.',
    });
  }
  if (mode === 'never') return { fleece: false, why: '--fleece never' };
  const wish = mode === 'always' ? '--fleece always' : verify ? '--verify' : reasonOf(question);
  if (wish === null) return { fleece: false, why: 'the target is local, has space and is written at full speed' };
  if (obstacle === null) return { fleece: true, why: wish };
  if (mode === 'always' || verify) {
    throw fleecingImpossible(wish, obstacle);
  }
  return { fleece: false, why: `${wish}, but fleecing is not possible here: ${obstacle}` };
}

export function fleecingImpossible(wish: string, obstacle: string): QmpBackupError {
  return new QmpBackupError('unsafe', `${wish}: fleecing is not possible here: ${obstacle}`, {
    hint: 'Nothing was changed. --fleece never takes the backup without it.',
  });
}

/** Why fleecing would be good for this guest, or null. */
function reasonOf({ network, speedLimit, spaceIsShort, jobBreaksItself }: FleeceQuestion): string | null {
  // What does not answer at all stalls also a job that would break itself on an error.
  if (network) return 'the target is on a network file system';
  if (jobBreaksItself) return null;
  if (spaceIsShort) return 'space on the target is short';
  return speedLimit > 0 ? 'a speed limit is set' : null;
}
