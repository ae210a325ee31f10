import { realpath } from 'node:fs/promises';
import { basename, extname, join, resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import { nameOfNode } from '../../core/block-node.js';
import { listNames } from '../../core/listed-names.js';
import { asComponent } from '../../core/names.js';
import { QmpBackupError } from '../../errors.js';
import { type ChainImage, readImageChains } from '../../import/image-chain.js';
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
import type { ImportOptions, NamedDisk } from './options.js';

/**
 * Turns images that build on one another into a chain in a new target: the oldest becomes a FULL, and each other an increment with just
 * the clusters that it holds itself. Of several disks the images at the same place of their chains are one point. The images are only read, and nothing else that their headers name is.
 *
 * @throws QmpBackupError `usage`; `locked`; `unsafe` for images that are no chains, in use, or encrypted, and for a target that is in
 * use; `damaged` for what is no image. Nothing is left then.
 */
export async function importImages(options: ImportOptions, given: Partial<ImportContext>): Promise<ImportResult> {
  const context = contextOf(given);
  const disks = await namedChains(await readImageChains(options.sources), options.disks);
  const target = resolve(options.target);
  await refuseDiskFolder(target);
  const images = disks.flatMap(({ chain }) => chain);
  const run: ImportRun = {
    ...{
      options: { ...options, source: disks[0]?.chain.at(-1)?.path ?? options.source },
      context,
      target,
      attempt: randomId(),
    },
    plan: { points: pointsOf(disks), warnings: [] },
    vm: { uuid: null, name: null, label: options.label },
    kind: kindOf(images),
    need: images.reduce((sum, { virtualSize }) => sum + virtualSize, 0),
  };
  return carryOutImport(run);
}

interface DiskChain {
  readonly disk: string;
  /** Oldest first. */
  readonly chain: readonly ChainImage[];
}

/** Which disk each chain is of. */
async function namedChains(
  chains: readonly (readonly ChainImage[])[],
  named: readonly NamedDisk[],
): Promise<readonly DiskChain[]> {
  const ids = new Map<readonly ChainImage[], string>();
  for (const { id, file } of named) {
    const path = file === null ? null : await realpath(file).catch(() => null);
    const chain = file === null ? chains[0] : chains.find((each) => each.some((image) => image.path === path));
    if (!chain) throw new QmpBackupError('usage', `--disk ${id}=${file}: that is none of the images`);
    const other = ids.get(chain);
    if (other !== undefined) {
      throw new QmpBackupError('usage', `--disk: ${other} and ${id} name images of the same chain`);
    }
    ids.set(chain, id);
  }
  const [first, second] = chains;
  if (second && (named.length < chains.length || named.some(({ file }) => file === null))) {
    const oldest = listNames(chains.map(([image]) => image?.name ?? ''));
    throw new QmpBackupError('unsafe', `the images are not one chain: ${oldest} build on nothing that was given`, {
      hint: 'Give the images of one disk with all that they build on; of several disks name each by one of its images: --disk ID=FILE',
    });
  }
  const uneven = chains.find(({ length }) => length !== first?.length);
  if (uneven) {
    const counts = chains.map((chain) => `${ids.get(chain)} ${chain.length}`).join(', ');
    throw new QmpBackupError('unsafe', `the disks have different numbers of images: ${counts}`, {
      hint: 'Images at the same place of their chains are taken for one point. Import the disks into targets of their own.',
    });
  }
  return chains.map((chain) => ({ disk: ids.get(chain) ?? nameOf(chain), chain }));
}

function nameOf([oldest]: readonly ChainImage[]): string {
  const name = oldest?.name ?? '';
  return asComponent(basename(name, extname(name)));
}

function pointsOf(disks: readonly DiskChain[]): readonly ImportPoint[] {
  const points: ImportPoint[] = [];
  for (const index of disks[0]?.chain.keys() ?? []) {
    const before = points.at(-1)?.disks;
    const level: 'full' | 'inc' = before ? 'inc' : 'full';
    const images = disks.flatMap(({ chain }) => chain[index] ?? []);
    const date = new Date(Math.max(...images.map(({ mtime }) => mtime.getTime()))).toISOString();
    const made = disks.map(({ disk }, at): ImportDisk => {
      const { path = '', virtualSize = 0 } = images[at] ?? {};
      const source = { name: path, disk, level, ident: null, size: virtualSize, meta: null, date } as const;
      return { disk, level, source, parent: before?.[at] ?? null, virtualSize, suspect: null };
    });
    points.push({ level, checkpoint: null, date, disks: made });
  }
  return points;
}

function kindOf(images: readonly ChainImage[]): ImportKind {
  const imageOf = ({ from }: ImportFile): ChainImage => {
    const image = images.find(({ path }) => path === from.name);
    if (!image) throw new Error(`${from.name} is none of the images`);
    return image;
  };
  return {
    name: 'images',
    copy: (file, options) => copyImage(file, imageOf(file), options),
    sourceOf: (file) => ({
      ...{ device: file.disk, qdev: null, node: null },
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
