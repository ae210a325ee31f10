import { basename, extname, join, resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import { nameOfNode } from '../../core/block-node.js';
import { asComponent } from '../../core/names.js';
import { type ChainImage, readImageChain } from '../../import/image-chain.js';
import type { ImportDisk, ImportPoint } from '../../import/import-plan.js';
import { nodeOf, viewOf } from '../../qemu-tools/image-view.js';
import { offlineNode, refusingWriters } from '../../qemu-tools/offline-image.js';
import { convert, convertLayer, map } from '../../qemu-tools/steps.js';
import { diskFolder } from '../../repository/layout.js';
import { refuseDiskFolder } from '../../repository/nesting.js';
import { carryOutImport } from './carry-out.js';
import {
  ancestorsOf,
  type ImportFile,
  type ImportFileOptions,
  type ImportKind,
  type WrittenData,
} from './import-file.js';
import { type ImportContext, type ImportResult, type ImportRun, randomId } from './import-run.js';
import type { ImportOptions } from './options.js';

/**
 * Turns images that build on one another into a chain in a new target: the oldest becomes a FULL, and each other an increment with just
 * the clusters that it holds itself. The images are only read, and nothing else that their headers name is.
 *
 * @throws QmpBackupError `usage`; `locked`; `unsafe` for images that are no chain, in use, or encrypted, and for a target that is in
 * use; `damaged` for what is no image. Nothing is left then.
 */
export async function importImages(options: ImportOptions, given: Partial<ImportContext>): Promise<ImportResult> {
  const context = contextOf(given);
  const chain = await readImageChain(options.sources);
  const target = resolve(options.target);
  await refuseDiskFolder(target);
  const [oldest, newest] = [chain[0], chain.at(-1)];
  const disk = options.disk ?? asComponent(basename(oldest?.name ?? '', extname(oldest?.name ?? '')));
  const run: ImportRun = {
    ...{ options: { ...options, source: newest?.path ?? options.source }, context, target, attempt: randomId() },
    plan: { points: pointsOf(chain, disk), warnings: [] },
    vm: { uuid: null, name: null, label: options.label },
    kind: kindOf(chain, options),
    need: chain.reduce((sum, { virtualSize }) => sum + virtualSize, 0),
  };
  return carryOutImport(run);
}

function pointsOf(chain: readonly ChainImage[], disk: string): readonly ImportPoint[] {
  const points: ImportPoint[] = [];
  let parent: ImportDisk | null = null;
  for (const { path, virtualSize, mtime } of chain) {
    const level: 'full' | 'inc' = points.length > 0 ? 'inc' : 'full';
    const date = mtime.toISOString();
    const source = { name: path, disk, level, ident: null, size: virtualSize, meta: null, date } as const;
    parent = { disk, level, source, parent, virtualSize, suspect: null };
    points.push({ level, checkpoint: null, date, disks: [parent] });
  }
  return points;
}

function kindOf(chain: readonly ChainImage[], { disk }: ImportOptions): ImportKind {
  const imageOf = ({ from }: ImportFile): ChainImage => {
    const image = chain.find(({ path }) => path === from.name);
    if (!image) throw new Error(`${from.name} is none of the images`);
    return image;
  };
  return {
    name: 'images',
    copy: (file, options) => copyImage(file, imageOf(file), options),
    sourceOf: (file) => ({
      ...{ device: disk, qdev: null, node: null },
      ...{ file: file.from.name, format: imageOf(file).image.format, image: null },
    }),
  };
}

/** Below an increment lies what was made of the one that it builds on: nothing that its header names is opened. */
async function copyImage(
  file: ImportFile,
  { image, path }: ChainImage,
  { target, signal, onProgress }: ImportFileOptions,
): Promise<WrittenData> {
  const cwd = diskFolder(target, file.disk);
  const line = ancestorsOf(file).map((each) => each.file);
  const partial = `${file.file}.partial`;
  const options = { cwd, signal, onProgress };
  const top = offlineNode(image);
  await refusingWriters(path, () => {
    if (!file.parent) {
      const view = image.format === 'qcow2' ? nameOfNode({ ...top, backing: null }) : nameOfNode(top);
      return convert(view, viewOf([partial]), { ...options, existing: true });
    }
    const view = nameOfNode({ ...top, backing: nodeOf(line) });
    return convertLayer(view, { target: viewOf([...line, partial]), base: file.parent.file }, options);
  });
  const extents = await map(viewOf([join(cwd, partial)]), { cwd, signal });
  return { bytes: extents.reduce((sum, { present, length }) => (present ? sum + length : sum), 0), zeroRecords: 0 };
}
