import type { Warning } from '../../core/warning.js';
import type { ServeResult } from '../../operations/serve/serve.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { ServeDocument } from './schemas/serve.js';

export function serveDocument({ target, point, disks }: ServeResult, warnings: readonly Warning[]): ServeDocument {
  return {
    ...envelope('serve'),
    ...{ target, point },
    disks: disks.map(({ disk, uri, virtualSize, overlay, files }) => ({ disk, uri, virtualSize, overlay, files })),
    warnings: warnings.map(warningPart),
  };
}
