import { createHash } from 'node:crypto';
import { printable, printableLines } from '../core/printable.js';
import { presentOf, type RunOutcome } from './outcome.js';
import type { Occasion, OpenEvent, Telling } from './what-is-told.js';

/** One message to one notifier, in plain text and for machines. What a VM is called, or a program has said, is shown as it is nowhere. */
export interface NotifyMessage {
  /** The same for what is sent again, so that a receiver can tell. */
  readonly id: string;
  readonly subject: string;
  readonly text: string;
  readonly urgency: 'failure' | 'recovery' | 'info';
  readonly document: MessageDocument;
}

/** What a webhook of the shape `json` is sent (docs/guide/notifications.md). */
export interface MessageDocument {
  readonly schema: 1;
  readonly id: string;
  readonly host: string;
  readonly config: string;
  readonly at: string;
  readonly occasions: readonly (Occasion | 'test')[];
  readonly subject: string;
  readonly text: string;
  readonly failures: readonly EventPart[];
  readonly reminders: readonly EventPart[];
  readonly recoveries: readonly EventPart[];
  readonly vms: readonly { readonly vm: string; readonly result: string; readonly lastBackupAt: string | null }[];
  readonly notBegun: readonly string[];
}

interface EventPart {
  /** Null is the run itself. */
  readonly vm: string | null;
  readonly since: string;
  readonly why: string;
}

export function messageFor(
  outcome: RunOutcome,
  telling: Telling,
  { notifier, host }: { readonly notifier: string; readonly host: string },
): NotifyMessage {
  const { occasions, failures, reminders, recoveries } = telling;
  const subject = printable(`qmpbackup on ${host}: ${headline(outcome, telling)}`);
  const text = printableLines(bodyOf(outcome, telling, host));
  const id = idOf([notifier, outcome.config, host, ...contentOf(outcome, telling)]);
  return {
    ...{ id, subject, text },
    urgency: failures.length + reminders.length > 0 ? 'failure' : recoveries.length > 0 ? 'recovery' : 'info',
    document: {
      ...{ schema: 1, id, host, config: outcome.config, at: outcome.endedAt.toISOString(), occasions, subject, text },
      failures: failures.map(eventPart),
      reminders: reminders.map(eventPart),
      recoveries: recoveries.map(eventPart),
      vms: presentOf(outcome.history, outcome.vms).map(({ vm, run, backup }) => ({
        ...{ vm, result: run.result, lastBackupAt: backup?.at ?? null },
      })),
      notBegun: outcome.notBegun,
    },
  };
}

export function testMessage({
  config,
  host,
  notifier,
  at,
}: {
  readonly config: string;
  readonly host: string;
  readonly notifier: string;
  readonly at: Date;
}): NotifyMessage {
  const subject = printable(`qmpbackup on ${host}: a test`);
  const text = printableLines(`This is a test of the notifier ${notifier} of ${config}. Nothing has happened.`);
  const id = idOf([notifier, config, host, at.toISOString()]);
  return {
    ...{ id, subject, text, urgency: 'info' },
    document: {
      ...{ schema: 1, id, host, config, at: at.toISOString(), occasions: ['test'], subject, text },
      ...{ failures: [], reminders: [], recoveries: [], vms: [], notBegun: [] },
    },
  };
}

function eventPart({ vm, since, why }: EventPart): EventPart {
  return { vm, since, why };
}

/** What makes a message another one. Reminders, digests and runs are told apart by their time. */
function contentOf({ endedAt }: RunOutcome, { occasions, failures, recoveries }: Telling): readonly string[] {
  const isOfItsTime = occasions.some((each) => each !== 'failure' && each !== 'recovery');
  return [
    ...failures.map(({ vm, since }) => `failure ${vm} ${since}`),
    ...recoveries.map(({ vm, since }) => `recovery ${vm} ${since}`),
    ...(isOfItsTime ? [endedAt.toISOString()] : []),
  ];
}

function idOf(parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
}

/** `2 VMs fail: web1, db; 1 VM is well again: mail`. */
function headline({ history, vms, notBegun }: RunOutcome, { failures, reminders, recoveries }: Telling): string {
  const told = [
    ...said(failures, 'fails', 'fail'),
    ...said(reminders, 'still fails', 'still fail'),
    ...said(recoveries, 'is well again', 'are well again'),
  ];
  if (told.length > 0) return told.join('; ');
  const known = presentOf(history, vms);
  const failing = known.filter(({ run }) => run.result === 'failed').length;
  const rest = notBegun.length === 0 ? '' : `, ${notBegun.length} not begun`;
  return failing === 0
    ? `${countOf(known.length)}, none fails${rest}`
    : `${failing} of ${countOf(known.length)} ${failing === 1 ? 'fails' : 'fail'}${rest}`;
}

const MOST_NAMES = 5;

function said(events: readonly EventPart[], one: string, many: string): readonly string[] {
  const run = events.some(({ vm }) => vm === null) ? [`the run ${one}`] : [];
  const names = events.flatMap(({ vm }) => vm ?? []);
  if (names.length === 0) return run;
  const more = names.length > MOST_NAMES ? ', ...' : '';
  return [
    ...run,
    `${countOf(names.length)} ${names.length === 1 ? one : many}: ${names.slice(0, MOST_NAMES).join(', ')}${more}`,
  ];
}

function countOf(count: number): string {
  return count === 1 ? '1 VM' : `${count} VMs`;
}

function bodyOf(outcome: RunOutcome, telling: Telling, host: string): string {
  const { config, begunAt, endedAt, notBegun } = outcome;
  const { failures, reminders, recoveries, news, occasions } = telling;
  const isFull = occasions.some((each) => each === 'always' || each === 'digest');
  const sections = [
    section('Failing:', failures.map(troubleLine)),
    section('Still failing:', reminders.map(troubleLine)),
    section('Well again:', recoveries.map(recoveryLine)),
    section(
      'Since the last digest:',
      news.map(
        (each) =>
          `${timeText(each.since)} ${nameOf(each.vm)} ${each.kind === 'failed' ? `failed: ${each.why}` : 'was well again'}`,
      ),
    ),
    isFull ? section('All VMs:', allLines(outcome)) : '',
    section('Not begun:', notBegun),
    isFull ? '' : countsLine(outcome),
    `The run of ${timeText(begunAt.toISOString())} to ${timeText(endedAt.toISOString())}, ${config} on ${host}. More: qmpbackup status`,
  ];
  return `${sections.filter((each) => each !== '').join('\n\n')}\n`;
}

function section(heading: string, lines: readonly string[]): string {
  return lines.length === 0 ? '' : [heading, ...lines.map((line) => `  ${line.replaceAll('\n', '\n    ')}`)].join('\n');
}

function troubleLine({ vm, since, why }: EventPart): string {
  return `${nameOf(vm)}, since ${timeText(since)}: ${why}`;
}

function recoveryLine({ vm, since, why, toldAt }: OpenEvent): string {
  const late = toldAt === null ? ', which is told only now' : '';
  return `${nameOf(vm)}, which failed since ${timeText(since)}${late} (${why})`;
}

function nameOf(vm: string | null): string {
  return vm ?? 'the run itself';
}

function allLines({ history, vms }: RunOutcome): readonly string[] {
  return presentOf(history, vms).map(({ vm, run, backup, failingSince }) => {
    const last = backup === null ? 'no backup yet' : `last backup ${timeText(backup.at)}`;
    return `${vm}: ${run.result}, ${last}${failingSince === null ? '' : `, failing since ${timeText(failingSince)}`}`;
  });
}

function countsLine({ history, vms }: RunOutcome): string {
  const known = presentOf(history, vms);
  const counts = (['ok', 'warnings', 'skipped', 'failed'] as const).flatMap((result) => {
    const many = known.filter(({ run }) => run.result === result).length;
    return many === 0 ? [] : [`${many} ${result}`];
  });
  return known.length === 0 ? '' : `${countOf(known.length)} in all: ${counts.join(', ')}.`;
}

/** Local time, to the minute. */
function timeText(iso: string): string {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return iso;
  const two = (count: number): string => String(count).padStart(2, '0');
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}
