import type { Warning } from '../../core/warning.js';
import type { BootResult } from '../../operations/boot/request.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { BootDocument } from './schemas/boot.js';

export function bootDocument(result: BootResult, warnings: readonly Warning[]): BootDocument {
  const { target, folder, point, state, pid, domain, command, script, monitor, agent, disks } = result;
  return {
    ...envelope('boot'),
    ...{ target, folder, point, state, pid },
    commandLine: command && [...command],
    ...{ script, monitor, agent, domain },
    disks: disks.map(({ disk, overlay, leans }) => ({ disk, overlay, leans })),
    warnings: warnings.map(warningPart),
  };
}
