import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { type OptionRules, word } from '../../core/option-rules.js';
import { isLocal } from '../../host/mounts.js';
import { type ReportResult, writeReport } from '../../report/html/write-report.js';
import { type AskedVmsFlags, askedVms, MAX_AGE_OPTION, TARGETS_OPTION } from '../asked-vms.js';
import { hasRunAsChild } from '../child-run.js';
import { reportDocument } from '../documents/report.js';
import { optionOf } from '../options.js';
import type { Register } from '../register.js';
import type { CommandContext } from '../wiring.js';
import { CONFIG_OPTION } from './run.js';

interface Flags extends AskedVmsFlags {
  readonly output: string;
  readonly evidence?: string;
}

const REPORT_OPTIONS = {
  output: { ...word('--output'), required: true },
  evidence: word('--evidence'),
} satisfies OptionRules;

export const reportCommand: Register = (program, run) => {
  program
    .command('report')
    .description(
      'write a page that shows how all VMs are backed up: state, calendar, sizes, chains, failures; without a server or a script',
    )
    .addOption(
      optionOf(REPORT_OPTIONS.output, 'a folder for an overview and a page of each VM, or a file FILE.html with all', {
        value: '<path>',
      }),
    )
    .option(...CONFIG_OPTION)
    .addOption(TARGETS_OPTION)
    .addOption(MAX_AGE_OPTION)
    .addOption(
      optionOf(
        REPORT_OPTIONS.evidence,
        'folder with pictures that verify --boot --evidence has kept, where the configuration does not name it',
        { value: '<dir>' },
      ),
    )
    .addHelpText('after', EXAMPLES)
    .action(run<Flags>(runReport));
};

const EXAMPLES = `
The pages need nothing but themselves, and have no script. A folder has to be empty, or to hold an earlier report: what else is there is never
replaced. Pages of VMs that are gone are removed. Ends with 0 whatever the report says; for that there is status.

Examples:
  qmpbackup report --output /var/www/backups
  qmpbackup report --target /backup --max-age 26h --output backups.html`;

async function runReport(flags: Flags, context: CommandContext): Promise<void> {
  const { signal } = context;
  const asked = await askedVms(flags);
  const output = resolve(flags.output);
  const evidence = flags.evidence === undefined ? null : resolve(flags.evidence);
  const touched = [output, ...asked.targets, ...asked.evidence, ...(evidence === null ? [] : [evidence])];
  const apart = touched.find((path) => !isLocal(path));
  if (apart !== undefined && (await hasRunAsChild(apart))) return;
  asked.warnings.forEach(context.warn);
  const now = context.now();
  const sources = await asked.sources(now);
  const head = {
    ...{ host: hostname(), now, config: asked.config, targets: asked.targets },
    warnings: asked.warnings.map(({ text }) => text),
  };
  const result = await writeReport({
    ...{ output, head, signal },
    sources: sources.map((each) => ({ ...each, evidence: each.evidence ?? evidence })),
  });
  context.done(
    (warnings) => reportDocument(result, { config: asked.config, at: now }, warnings),
    () => toldOf(result),
    'the report is written',
  );
}

function toldOf({ level, vms, pages, removed }: ReportResult): string {
  const [first] = pages;
  const more = pages.length > 1 ? `, and ${pages.length - 1} more ${pages.length === 2 ? 'page' : 'pages'}` : '';
  const gone = removed.length === 0 ? '' : `, ${removed.length} of VMs that are gone removed`;
  return `${vms === 1 ? '1 VM' : `${vms} VMs`}, ${level}: ${first}${more}${gone}`;
}
