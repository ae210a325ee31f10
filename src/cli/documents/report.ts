import type { Warning } from '../../core/warning.js';
import type { ReportResult } from '../../report/html/write-report.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { ReportDocument } from './schemas/report.js';

export function reportDocument(
  { level, vms, pages, removed }: ReportResult,
  { config, at }: { readonly config: string | null; readonly at: Date },
  warnings: readonly Warning[],
): ReportDocument {
  return {
    ...envelope('report'),
    ...{ config, at: at.toISOString(), level, vms },
    ...{ pages: [...pages], removed: [...removed], warnings: warnings.map(warningPart) },
  };
}
