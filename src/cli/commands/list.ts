import type { Register } from '../program.js';
import type { CommandContext } from '../wiring.js';

export const listCommand: Register = (program, run) => {
  program
    .command('list')
    .description('show the chains and points of a target: size, consistency, what each needs')
    .requiredOption('--target <dir>', 'folder of the backups, or the one above several (--monthly)')
    .addHelpText('after', '\nExamples:\n  qmpbackup list --target /backup/vm\n  qmpbackup list --json --target /backup')
    .action(run(runList));
};

async function runList({ target }: { readonly target: string }, context: CommandContext): Promise<void> {
  const { list } = await import('../../operations/list.js');
  const { renderList } = await import('../render/list.js');
  const targets = await list(target);
  context.answer({ targets }, () => renderList(targets, context.globals.verbose ?? false));
}
