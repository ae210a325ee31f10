import { join } from 'node:path';
import { nameOfNode, nbdNode } from '../../core/block-node.js';
import { viewOf } from '../../qemu-tools/image-view.js';
import type { ChainFile } from '../../repository/chain-check.js';
import { openBytes } from '../../storage-daemon/open-bytes.js';

/** The state of a chain, whose headers were checked. */
export interface ChainSource {
  /** The folder of its files. */
  readonly dir: string;
  /** FULL first. */
  readonly line: readonly ChainFile[];
}

/** Above it a view takes longer to open than a daemon that holds the same files (200: 1 s, 400: 8 s), and ends at 700. */
const MOST_IN_VIEW = 200;

/** Hands `read` a source for qemu-img, in `dir`, which follows nothing that a header says. */
export async function readingChain<T>(
  { dir, line }: ChainSource,
  signal: AbortSignal,
  read: (source: string) => Promise<T>,
): Promise<T> {
  if (line.length <= MOST_IN_VIEW) return read(viewOf(line.map(({ file }) => file)));
  const exportName = 'disk';
  const paths = line.map(({ file }) => join(dir, file));
  const bytes = await openBytes([{ disk: exportName, paths }], { what: `copy of ${line.at(-1)?.file}`, signal });
  try {
    return await read(nameOfNode(nbdNode({ address: await bytes.serveNbd(), exportName })));
  } finally {
    await bytes.close();
  }
}

/** Bytes of the disk. */
export function sizeOf({ line }: ChainSource): number {
  return line.at(-1)?.virtualSize ?? 0;
}
