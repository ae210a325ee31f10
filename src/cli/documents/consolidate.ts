import type { Warning } from '../../core/warning.js';
import type {
  ConsolidatedChain,
  ConsolidatedPoint,
  ConsolidateResult,
} from '../../operations/consolidate/consolidate.js';
import { envelope } from './envelope.js';
import { identityPart, warningPart } from './parts.js';
import type { ConsolidateDocument } from './schemas/consolidate.js';

type ChainPart = ConsolidateDocument['chains'][number];

export function consolidateDocument(
  { chains, dryRun }: ConsolidateResult,
  warnings: readonly Warning[],
): ConsolidateDocument {
  return {
    ...envelope('consolidate'),
    chains: chains.map(chainPart),
    dryRun,
    warnings: warnings.map(warningPart),
  };
}

function chainPart({ vm, target, head, merged, files, removed, freed, failed }: ConsolidatedChain): ChainPart {
  return {
    vm: identityPart(vm),
    target,
    head: head && pointPart(head),
    merged: merged.map(pointPart),
    files: files.map(({ disk, file, from }) => ({ disk, file, from })),
    removed,
    freed,
    failed: failed && { why: failed.message, hint: failed.hint ?? null },
  };
}

function pointPart({ point, name }: ConsolidatedPoint): ChainPart['merged'][number] {
  const { id, chain, number, createdAt } = point;
  return { id, chain, number, createdAt, name };
}
