/** Whether all is well with the backup of a VM: what is known of it, and what follows. Times are milliseconds. */
export type StatusLevel = 'ok' | 'warning' | 'critical';

export interface StatusFacts {
  /** Why its target could not be read; null where it was. */
  readonly unread: string | null;
  /** It was backed up, and nothing knows it any more. */
  readonly isGone: boolean;
  /** Age of the newest point that can be restored as a whole, never below 0; null where there is none. */
  readonly ageMs: number | null;
  /** How far in the future the point is dated that is the newest by its date; 0 where none is. */
  readonly aheadMs: number;
  /** How old it may be; null is not judged. */
  readonly maxAgeMs: number | null;
  /** Points that cannot be restored as a whole. */
  readonly damaged: number;
  /** Why the newest of them cannot; null where there is none. */
  readonly whyDamaged: string | null;
  /** What is not known of the target, in words. */
  readonly unknown: readonly string[];
  /** Of the newest point that was started: why it has not booted. */
  readonly notBooted: string | null;
  /** The last run; null where none is known. */
  readonly run: RunFacts | null;
}

export interface RunFacts {
  readonly result: 'ok' | 'warnings' | 'failed' | 'skipped';
  /** What failed, in words. */
  readonly failures: readonly string[];
  readonly warnings: readonly string[];
}

export interface Reason {
  readonly level: Exclude<StatusLevel, 'ok'>;
  readonly text: string;
}

export interface Judgement {
  readonly level: StatusLevel;
  /** The worst first. */
  readonly reasons: readonly Reason[];
}

export function judgeStatus(facts: StatusFacts): Judgement {
  const reasons = [...criticalIn(facts), ...warningsIn(facts)];
  return { level: reasons[0]?.level ?? 'ok', reasons };
}

function criticalIn({ unread, isGone, ageMs, whyDamaged, run }: StatusFacts): readonly Reason[] {
  const found: string[] = [];
  if (isGone) found.push('it was backed up before, and is no longer found');
  if (unread !== null) found.push(unread);
  else if (ageMs === null) found.push(because('there is no good point', whyDamaged));
  if (run?.result === 'failed') {
    found.push(...(run.failures.length === 0 ? ['the last run failed'] : run.failures));
  }
  return found.map((text) => ({ level: 'critical', text }));
}

/** A clock that went back by less is not worth a word. */
const FUTURE_MS = 86_400_000;

/** Whether a date says nothing of an age: until its time has come, the point would hide that there is no newer one. */
export function isMisdated(at: number, now: number): boolean {
  return at - now > FUTURE_MS;
}

function warningsIn(facts: StatusFacts): readonly Reason[] {
  const { ageMs, aheadMs, maxAgeMs, damaged, whyDamaged, unknown, notBooted, run } = facts;
  const found: string[] = [];
  // One that is off, and is left out for that, does not change: its last point stays as good as it was.
  const isJudged = run?.result !== 'skipped';
  if (isJudged && ageMs !== null && maxAgeMs !== null && ageMs > maxAgeMs) {
    found.push(`the newest good point is ${spanText(ageMs)} old, ${spanText(maxAgeMs)} are allowed`);
  }
  if (isMisdated(aheadMs, 0)) {
    found.push(`a good point is dated ${spanText(aheadMs)} in the future: a clock is wrong, or was when it was made`);
  }
  if (damaged > 0) {
    // Where none is good it is told already.
    const why = ageMs === null ? null : whyDamaged;
    found.push(because(damaged === 1 ? '1 point cannot be restored' : `${damaged} points cannot be restored`, why));
  }
  found.push(...unknown);
  if (notBooted !== null) found.push(notBooted);
  if (run && run.result !== 'failed') found.push(...run.warnings);
  return found.map((text) => ({ level: 'warning', text }));
}

function because(what: string, why: string | null): string {
  return why === null ? what : `${what}: ${why}`;
}

const LEVELS: readonly StatusLevel[] = ['critical', 'warning', 'ok'];

/** Of no VM at all nothing is wrong. */
export function worstLevel(levels: readonly StatusLevel[]): StatusLevel {
  return LEVELS.find((level) => levels.includes(level)) ?? 'ok';
}

/** `26 h`, `3 d`, `12 min`: of a clock that went back, 0. */
export function spanText(ms: number): string {
  const minutes = Math.max(0, Math.floor(ms / 60_000));
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 72 ? `${hours} h` : `${Math.floor(hours / 24)} d`;
}
