import type { Command } from 'commander';
import type { Warning } from '../../core/warning.js';
import {
  type MarkContext,
  type MarkedPoint,
  note,
  NOTE_OPTIONS,
  pin,
  PIN_OPTIONS,
  unpin,
  UNPIN_OPTIONS,
} from '../../operations/pin.js';
import { POINT_FORMS } from '../../core/point-name.js';
import type { AnswerDocument } from '../documents/document.js';
import { noteDocument, pinDocument, unpinDocument } from '../documents/pin.js';
import { optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const pinCommand: Register = (program, run) => {
  const command = marking(program, 'pin', 'keep a point whatever the rules of prune say, until it is unpinned')
    .addOption(optionOf(PIN_OPTIONS.note, 'why; a note that list shows', { value: '<text>' }))
    .addHelpText('after', PIN_EXAMPLES);
  command.action((point: string, flags: Flags) =>
    run<Flags>((given, context) =>
      mark(context, pinDocument, (asked) => pin({ ...requestFrom(PIN_OPTIONS, given), point }, asked)),
    )(flags, command),
  );
};

const PIN_EXAMPLES = `
A pinned point is not merged away by rebase either, which refuses (13).

Examples:
  qmpbackup pin latest --target /backup/vm --note "before the upgrade"
  qmpbackup pin "2026-11-20 10:00" --target /backup --monthly --vm-name web1`;

export const unpinCommand: Register = (program, run) => {
  const command = marking(program, 'unpin', 'take the pin from a point; its note stays').addHelpText(
    'after',
    UNPIN_EXAMPLES,
  );
  command.action((point: string, flags: Flags) =>
    run<Flags>((given, context) =>
      mark(context, unpinDocument, (asked) => unpin({ ...requestFrom(UNPIN_OPTIONS, given), point }, asked)),
    )(flags, command),
  );
};

const UNPIN_EXAMPLES = `
Examples:
  qmpbackup unpin 3 --target /backup/vm`;

export const noteCommand: Register = (program, run) => {
  const command = marking(program, 'note', 'write a note on a point, which list shows')
    .argument('[text]', 'the note, in place of the one that is there')
    .addOption(optionOf(NOTE_OPTIONS.remove, 'take the note away instead'))
    .addHelpText('after', NOTE_EXAMPLES);
  command.action((point: string, text: string | undefined, flags: Flags) =>
    run<Flags>((given, context) =>
      mark(context, noteDocument, (asked) => note({ ...requestFrom(NOTE_OPTIONS, given), point, text }, asked)),
    )(flags, command),
  );
};

const NOTE_EXAMPLES = `
Examples:
  qmpbackup note latest~1 "disk1 was nearly full" --target /backup/vm
  qmpbackup note 3 --remove --target /backup/vm`;

function marking(program: Command, name: string, description: string): Command {
  const { target, monthly, vmName, breakLock } = UNPIN_OPTIONS;
  return program
    .command(name)
    .description(description)
    .argument('<point>', POINT_FORMS)
    .addOption(
      optionOf(target, 'folder of the backups, or the one above several (--monthly)', { short: '-t', value: '<dir>' }),
    )
    .addOption(optionOf(monthly, 'the point is in one of the months, <target>/<vm name>/<YYYY-MM>'))
    .addOption(optionOf(vmName, 'with --monthly: of this VM', { value: '<name>' }))
    .addOption(optionOf(breakLock, 'take a lock that another host holds'));
}

async function mark(
  context: CommandContext,
  document: (marked: MarkedPoint, warnings: readonly Warning[]) => AnswerDocument,
  step: (asked: Partial<MarkContext>) => Promise<MarkedPoint>,
): Promise<void> {
  const marked = await step({ signal: context.signal, report: context.warn });
  context.done(
    (warnings) => document(marked, warnings),
    () => render(marked),
    'it is written',
  );
}

function render({ point, name, target, changed }: MarkedPoint): string {
  const state = point.pinned ? 'pinned' : 'not pinned';
  const noted = point.note === undefined ? '' : `; its note is: ${point.note}`;
  return `${name} of ${target} is ${changed ? '' : 'already '}${state}${noted}`;
}
