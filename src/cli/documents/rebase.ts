import type { Warning } from '../../core/warning.js';
import type { RebaseResult } from '../../operations/rebase/rebase.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { RebaseDocument } from './schemas/rebase.js';

export function rebaseDocument(result: RebaseResult, warnings: readonly Warning[]): RebaseDocument {
  const { dir, full, head, merged, lost, relinked, resumes, dryRun, removed } = result;
  return {
    ...envelope('rebase'),
    dir,
    full,
    head,
    merged,
    lost,
    relinked,
    resumes,
    dryRun,
    removed,
    warnings: warnings.map(warningPart),
  };
}
