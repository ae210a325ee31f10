import type { StepRecord } from '../run/history.js';
import { STATUS_EXIT } from './plugin-line.js';
import { lastBoot, type Status, type VmStatus } from './status.js';

/** The text format of Prometheus, for the textfile collector: seconds and bytes, as it wants its units. */
export function prometheusText({ vms }: Status, now: Date): string {
  const gauges = [
    gauge('qmpbackup_status_timestamp_seconds', 'When these figures were made.', [
      { labels: [], value: now.getTime() / 1000 },
    ]),
    ...OF_A_VM.map(({ name, help, value }) =>
      gauge(
        name,
        help,
        vms.flatMap((vm) =>
          sample(value(vm), [
            ['vm', vm.vm],
            ['target', vm.target],
          ]),
        ),
      ),
    ),
    gauge(
      'qmpbackup_step_success',
      'Whether a step of the last run went well: 1, or 0 where it failed.',
      vms.flatMap((vm) => ofSteps(vm, ({ result }) => (result === 'failed' ? 0 : 1))),
    ),
    gauge(
      'qmpbackup_step_duration_seconds',
      'How long a step of the last run took.',
      vms.flatMap((vm) => ofSteps(vm, ({ durationMs }) => durationMs / 1000)),
    ),
  ];
  return gauges.join('');
}

interface Sample {
  readonly labels: readonly (readonly [string, string])[];
  readonly value: number;
}

interface Gauge {
  readonly name: string;
  readonly help: string;
  /** Null where it does not apply. */
  readonly value: (vm: VmStatus) => number | null;
}

const OF_A_VM: readonly Gauge[] = [
  {
    name: 'qmpbackup_status',
    help: 'Whether all is well with the backup of a VM: 0 ok, 1 warning, 2 critical.',
    value: ({ level }) => STATUS_EXIT[level],
  },
  {
    name: 'qmpbackup_last_good_point_timestamp_seconds',
    help: 'When the newest point was made that can be restored as a whole.',
    value: ({ lastGood }) => timeOf(lastGood?.point.createdAt),
  },
  {
    name: 'qmpbackup_last_good_point_age_seconds',
    help: 'How old that point was when these figures were made.',
    value: ({ ageMs }) => inSeconds(ageMs),
  },
  {
    name: 'qmpbackup_max_age_seconds',
    help: 'How old that point may be.',
    value: ({ maxAgeMs }) => inSeconds(maxAgeMs),
  },
  { name: 'qmpbackup_points', help: 'Points in the target.', value: ({ facts }) => facts && facts.points.length },
  {
    name: 'qmpbackup_damaged_points',
    help: 'Points that cannot be restored as a whole.',
    value: ({ facts, damaged }) => facts && damaged,
  },
  {
    name: 'qmpbackup_chain_points',
    help: 'Points of the newest chain.',
    value: ({ facts, chainPoints }) => facts && chainPoints,
  },
  {
    name: 'qmpbackup_allocated_bytes',
    help: 'Space that the files of all points take.',
    value: ({ facts }) => facts && facts.allocated,
  },
  {
    name: 'qmpbackup_target_free_bytes',
    help: 'Space that is left on the file system of the target.',
    value: ({ facts }) => facts?.space?.free ?? null,
  },
  {
    name: 'qmpbackup_target_size_bytes',
    help: 'Size of that file system.',
    value: ({ facts }) => facts?.space?.total ?? null,
  },
  {
    name: 'qmpbackup_oldest_proof_timestamp_seconds',
    help: 'When the file that was not read for the longest was read, or written.',
    value: ({ facts }) => timeOf(facts?.oldestProofAt),
  },
  {
    name: 'qmpbackup_last_verify_timestamp_seconds',
    help: 'When a run has last verified the target and found nothing wrong.',
    value: ({ history }) => timeOf(history?.checks.verify),
  },
  {
    name: 'qmpbackup_last_boot_timestamp_seconds',
    help: 'When a point was last started in a throwaway VM.',
    value: ({ facts }) => timeOf(lastBoot(facts?.points ?? [])?.at),
  },
  {
    name: 'qmpbackup_last_boot_success',
    help: 'Whether it has booted: 1 or 0.',
    value: ({ facts }) => {
      const boot = lastBoot(facts?.points ?? []);
      return boot && (boot.why === null ? 1 : 0);
    },
  },
  {
    name: 'qmpbackup_last_boot_duration_seconds',
    help: 'How long it took to answer.',
    value: ({ facts }) => inSeconds(lastBoot(facts?.points ?? [])?.afterMs),
  },
  {
    name: 'qmpbackup_last_run_timestamp_seconds',
    help: 'When the last run of a VM was begun.',
    value: ({ history }) => timeOf(history?.run.at),
  },
  {
    name: 'qmpbackup_last_run_success',
    help: 'Whether it went well: 1, or 0 where it failed.',
    value: ({ history }) => history && (history.run.result === 'failed' ? 0 : 1),
  },
  {
    name: 'qmpbackup_last_run_skipped',
    help: 'Whether the VM was left out by it, as one that is off may be: 1 or 0.',
    value: ({ history }) => history && (history.run.result === 'skipped' ? 1 : 0),
  },
  {
    name: 'qmpbackup_last_run_warnings',
    help: 'How much it was warned of.',
    value: ({ history }) => history && history.run.steps.reduce((sum, { warnings }) => sum + warnings.length, 0),
  },
  {
    name: 'qmpbackup_failing_since_timestamp_seconds',
    help: 'When the first run was begun of those that failed, until all that had failed went well again.',
    value: ({ history }) => timeOf(history?.failingSince),
  },
  {
    name: 'qmpbackup_backup_duration_seconds',
    help: 'How long the last backup that was made took.',
    value: ({ history }) => inSeconds(history?.backup?.durationMs),
  },
  {
    name: 'qmpbackup_backup_copied_bytes',
    help: 'What it has copied.',
    value: ({ history }) => history?.backup?.bytes ?? null,
  },
  {
    name: 'qmpbackup_backup_freeze_seconds',
    help: 'How long the guest was frozen for it.',
    value: ({ history }) => inSeconds(history?.backup?.frozenMs),
  },
  {
    name: 'qmpbackup_backup_pause_seconds',
    help: 'How long the VM stood still for it.',
    value: ({ history }) => inSeconds(history?.backup?.pausedMs),
  },
];

function timeOf(iso: string | null | undefined): number | null {
  const ms = iso === null || iso === undefined ? NaN : Date.parse(iso);
  return Number.isNaN(ms) ? null : ms / 1000;
}

function inSeconds(ms: number | null | undefined): number | null {
  return ms === null || ms === undefined ? null : ms / 1000;
}

function ofSteps({ vm, target, history }: VmStatus, value: (step: StepRecord) => number): readonly Sample[] {
  const done = (history?.run.steps ?? []).filter(({ result }) => result !== 'skipped');
  return done.flatMap((step) =>
    sample(value(step), [
      ['vm', vm],
      ['target', target],
      ['verb', step.verb],
    ]),
  );
}

function sample(value: number | null, labels: Sample['labels']): readonly Sample[] {
  return value === null ? [] : [{ value, labels }];
}

/** Nothing where it applies to nobody: a family without samples is none. */
function gauge(name: string, help: string, samples: readonly Sample[]): string {
  if (samples.length === 0) return '';
  const lines = samples.map(({ labels, value }) => {
    const words = labels.map(([key, text]) => `${key}="${escaped(text)}"`).join(',');
    return `${name}${words === '' ? '' : `{${words}}`} ${value}`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${lines.join('\n')}\n`;
}

function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
