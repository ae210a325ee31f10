import { list } from '../../operations/list.js';
import { listDocument } from '../documents/list.js';
import { LIST_OPTIONS } from '../../operations/options.js';
import { optionOf } from '../options.js';
import type { Register } from '../register.js';
import { renderList } from '../render/list.js';
import type { CommandContext } from '../wiring.js';

export const listCommand: Register = (program, run) => {
  program
    .command('list')
    .description('show the chains and points of a target: size, consistency, what each needs, and what it would free')
    .addOption(
      optionOf(LIST_OPTIONS.target, 'folder of the backups, or the one above several (--monthly)', {
        short: '-t',
        value: '<dir>',
      }),
    )
    .addHelpText('after', EXAMPLES)
    .action(run(runList));
};

const EXAMPLES = `
FREES is what would be free if that point alone went; nothing where others build on it, and then how many do so directly.

Points that need a file which is gone, or has another size than the catalog says, are NOT RESTORABLE, and a warning names the
file. The bytes of the files are not read. Ends with 0 all the same: what was asked for, the list, is there. Ends with 3 where one of
several targets has a catalog that cannot be read.

Examples:
  qmpbackup list --target /backup/vm
  qmpbackup list --json --target /backup`;

async function runList({ target }: { readonly target: string }, context: CommandContext): Promise<void> {
  const result = await list({ target });
  for (const { warnings } of result.targets) warnings.forEach(context.warn);
  if (result.unread.length > 0) context.endWith('partial');
  context.answer(
    () => listDocument(result),
    () => renderList(result, context.globals.verbose ?? false),
  );
}
