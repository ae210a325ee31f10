import type { Catalog } from '../core/catalog.js';
import {
  type ConsolidationPlan,
  type MergeLine,
  planConsolidation,
  topOf,
  type Unmergeable,
} from '../core/consolidation.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import type { PointDisk } from '../core/point.js';
import { QmpBackupError } from '../errors.js';
import { readHeader } from '../qemu-tools/examine.js';
import { filePath } from '../repository/layout.js';

/**
 * `planConsolidation`, with what only the files tell: increments with clusters of another size, as other tools make them, are not
 * merged into one with ours.
 */
export async function planMerges(
  target: string,
  catalog: Pick<Catalog, 'points'>,
  dropped: ReadonlySet<string>,
): Promise<ConsolidationPlan> {
  const plan = planConsolidation(catalog, dropped);
  if (plan.unmergeable.length > 0) return plan;
  const odd: Unmergeable[] = [];
  for (const line of plan.lines) {
    const found = line.files[0]?.parent === null ? undefined : await oddFile(target, line);
    if (!found) continue;
    const { disk, file } = line.files[0] ?? topOf(line);
    const point = catalog.points.find(({ disks }) => disks.some((each) => each.disk === disk && each.file === file));
    if (point)
      odd.push({ point: point.id, disk, file, why: `${found.file} has no clusters of ${IMAGE_CLUSTER / 1024} KiB` });
  }
  return { ...plan, unmergeable: odd };
}

/** Clusters that have parts of their own (extended L2 entries). */
const SUBCLUSTERS = 16n;

async function oddFile(target: string, { disk, files }: MergeLine): Promise<PointDisk | undefined> {
  for (const entry of files) {
    try {
      const { clusterSize, incompatibleFeatures } = await readHeader(filePath(target, disk, entry.file), entry.file);
      if (clusterSize !== IMAGE_CLUSTER || (incompatibleFeatures & SUBCLUSTERS) !== 0n) return entry;
    } catch (error) {
      // Who merges it says what is wrong with it.
      if (!(error instanceof QmpBackupError)) throw error;
    }
  }
  return undefined;
}
