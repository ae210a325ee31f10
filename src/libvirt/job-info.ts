/** `virsh domjobinfo --rawstats`: numbers as libvirt counts them, the same in every version. */
import { LibvirtAnswerError } from './errors.js';

export interface DomainJobInfo {
  /** `none` also after a pull or push has ended: `--completed` then tells how. */
  readonly state: 'none' | 'running' | 'completed' | 'failed' | 'cancelled';
  /** `backup`, or the number of another operation (migration, save, dump …), null when there is none. */
  readonly operation: 'backup' | number | null;
  /** Since it began, or since libvirtd was started again. */
  readonly elapsedMs: number | null;
  /** Of a push, over all disks. */
  readonly copied: { readonly bytes: number; readonly total: number } | null;
  /** Of a pull: what the scratch files hold, and could at most come to hold (the sizes of the disks). */
  readonly scratch: { readonly bytes: number; readonly total: number } | null;
  readonly error: string | null;
}

const STATES: Readonly<Record<string, DomainJobInfo['state']>> = {
  '0': 'none',
  '1': 'running',
  '2': 'running',
  '3': 'completed',
  '4': 'failed',
  '5': 'cancelled',
};
/** VIR_DOMAIN_JOB_OPERATION_BACKUP. */
const BACKUP = 9;

/** virDomainJobOperation. */
const OPERATIONS: Readonly<Record<number, string>> = {
  1: 'its start',
  2: 'a save',
  3: 'a restore from a save',
  4: 'an incoming migration',
  5: 'an outgoing migration',
  6: 'a snapshot',
  7: 'a return to a snapshot',
  8: 'a memory dump',
  10: 'the removal of a snapshot',
};

export function operationInWords(operation: DomainJobInfo['operation']): string {
  if (operation === 'backup') return 'a backup';
  return OPERATIONS[operation ?? 0] ?? `a job (libvirt operation ${operation})`;
}

export function parseJobInfo(text: string): DomainJobInfo {
  const values = new Map(
    text.split('\n').flatMap((line): [string, string][] => {
      const colon = line.indexOf(':');
      return colon < 0 ? [] : [[line.slice(0, colon).trim(), line.slice(colon + 1).trim()]];
    }),
  );
  const state = STATES[values.get('Job type') ?? ''];
  if (state === undefined) throw new LibvirtAnswerError('the answer of virsh domjobinfo', text);
  const count = (name: string): number | null => {
    const value = values.get(name);
    return value === undefined ? null : Number(value);
  };
  const pair = (bytes: number | null, total: number | null): DomainJobInfo['copied'] =>
    bytes === null || total === null ? null : { bytes, total };
  const operation = count('operation');
  const said = values.get('errmsg');
  // A job that was cancelled is "completed" with success=1 and only says so here.
  const cancelled = said === 'Operation canceled';
  const failed = state === 'completed' && values.get('success') === '0';
  return {
    state: cancelled ? 'cancelled' : failed ? 'failed' : state,
    operation: operation === BACKUP ? 'backup' : operation,
    elapsedMs: count('time_elapsed'),
    copied: pair(count('disk_processed'), count('disk_total')),
    scratch: pair(count('disk_temp_used'), count('disk_temp_total')),
    error: said ?? null,
  };
}
