import { displayName } from '../../core/identity.js';
import type { ConsolidatedChain, ConsolidateResult } from '../../operations/consolidate/consolidate.js';
import { formatBytes, formatNames } from './units.js';

export function renderConsolidate({ chains, dryRun }: ConsolidateResult, verbose: boolean): string {
  return chains.map((chain) => renderChain(chain, dryRun, verbose)).join('\n\n');
}

function renderChain(chain: ConsolidatedChain, dryRun: boolean, verbose: boolean): string {
  const { vm, target, head, merged, files, removed, freed, failed } = chain;
  const heading = `${target}  VM ${displayName(vm) ?? 'without name'}`;
  if (failed) return `${heading}: not consolidated, ${failed.message}`;
  const names = verbose ? (from: readonly string[]) => from.join(', ') : formatNames;
  const more = verbose ? removed.map((file) => `removed ${file}`) : [];
  if (!head) return [`${heading}: nothing to merge`, ...more].join('\n');
  const points = merged.length === 1 ? merged[0]?.name : `${merged[0]?.name} to ${merged.at(-1)?.name}`;
  const does = dryRun ? 'would be merged into' : merged.length === 1 ? 'was merged into' : 'were merged into';
  return [
    heading,
    `${points} ${does} ${head.name}, which ${dryRun ? 'then needs' : 'now needs'} no other`,
    ...files.map(({ disk, file, from }) => `  ${disk}: ${names(from)}${file === null ? '' : ` -> ${file}`}`),
    dryRun ? `at most ${formatBytes(freed)} would be free` : `${formatBytes(freed)} freed`,
    ...more,
  ].join('\n');
}
