import { importExport } from './import-export.js';
import { importImages } from './import-images.js';
import type { ImportContext, ImportResult } from './import-run.js';
import { importStreams } from './import-streams.js';
import { importOptions, type ImportRequest } from './options.js';

/**
 * Takes backups from elsewhere into a target: all points that they make are valid at once, or none. What they are taken from
 * is only read.
 *
 * @throws QmpBackupError `usage`; `locked`; `no-catalog`, `unsafe` and `damaged` for what cannot be taken in: see the functions of each kind
 */
export async function importPoints(request: ImportRequest, given: Partial<ImportContext> = {}): Promise<ImportResult> {
  const options = importOptions(request);
  switch (options.from) {
    case 'virtnbdbackup':
      return importStreams(options, given);
    case 'images':
      return importImages(options, given);
    case 'export':
      return importExport(options, given);
  }
}
