import { counted } from '../../core/counted.js';
import { basename, dirname } from 'node:path';
import { type BlockNodeSpec, nameOfNode, windowOf } from '../../core/block-node.js';
import { backingChainOf } from '../../core/chain.js';
import type { PlannedDisk } from '../../core/plan.js';
import { sampleWindows, type Window } from '../../core/sample-windows.js';
import { QmpBackupError } from '../../errors.js';
import { nodeOf, readInFull } from '../../qemu-tools/image-view.js';
import { compare } from '../../qemu-tools/steps.js';
import type { BackupRun, Planned } from '../backup-run.js';
import type { StagedImage } from '../copy-method.js';

/**
 * Compares a new image, with all that it builds on, with the frozen instant of its disk. `instant`: a block node that is
 * `readInFull`. Throws where they differ.
 */
export async function compareWithInstant(
  run: BackupRun,
  planned: Planned,
  { planned: disk, path }: Pick<StagedImage, 'planned' | 'path'>,
  instant: BlockNodeSpec,
): Promise<void> {
  const windows = run.options.verify === 'sample' ? sampleWindows(disk.source.virtualSize, Math.random) : null;
  run.context.report({ kind: 'verifying', disk: disk.disk, share: shareText(windows) });
  const image = readInFull(nodeOf([...filesBelow(planned, disk), basename(path)]));
  const pairs = windows?.map((window) => [windowOf(instant, window), windowOf(image, window)] as const);
  for (const [a, b] of pairs ?? [[instant, image] as const]) {
    const options = { cwd: dirname(path), signal: run.signal };
    if (await compare(nameOfNode(a), nameOfNode(b), options)) continue;
    throw new QmpBackupError('failed', `--verify: the backup of ${disk.disk} differs from the disk`, {
      hint: disk.parent
        ? 'The point was not kept. Take a full backup (--level full): the chain may miss a change.'
        : 'The point was not kept. Check the storage of the target and of the disk.',
    });
  }
}

/** What the new image builds on, FULL first. */
function filesBelow({ catalog }: Planned, { parent, file }: PlannedDisk): readonly string[] {
  if (!catalog || !parent) return [];
  const line = backingChainOf(catalog, parent);
  if ('missing' in line)
    throw new QmpBackupError('failed', `--verify: ${line.missing}, which ${file} needs, is missing`);
  return line.files.map((each) => each.file);
}

function shareText(windows: readonly Window[] | null): string {
  if (windows === null) return 'all of it';
  const bytes = windows.reduce((sum, { length }) => sum + length, 0);
  return `${counted(windows.length, 'part')} of it (${Math.ceil(bytes / 1024 / 1024)} MiB)`;
}
