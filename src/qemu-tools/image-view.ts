import { type BlockNodeSpec, fileNode, nameOfNode, qcow2Node, quorumNode } from '../core/block-node.js';
import { IMAGE_CLUSTER } from '../core/image-cluster.js';
import { QmpBackupError } from '../errors.js';

/**
 * A chain as one `json:` file name that names every file of it, so that qemu-img follows nothing that a header says.
 * Names are relative: qemu-img is run in the folder that holds them.
 */

/**
 * Files in one view at most. QEMU's JSON parser ends at 1024 levels, and the time to open a view grows with the cube of
 * its depth (7.2: 0.1 s for 40 files, 1 s for 200, 8 s for 400, 38 s for 700).
 */
export const MAX_VIEW_FILES = 700;
/** Linux takes no single argument of 128 KiB or more. */
const MAX_ARGUMENT = 131_072;

/**
 * The disk as of the last of `files`, each of which builds on the one before; the first builds on nothing.
 *
 * @throws QmpBackupError `failed` for a chain that is too long to be opened.
 */
export function viewOf(files: readonly string[]): string {
  const view = nameOfNode(nodeOf(files));
  if (Buffer.byteLength(view) >= MAX_ARGUMENT) throw tooLong(files.length);
  return view;
}

/** The same as the description of a block node. Throws as `viewOf` for more files than QEMU can open. */
export function nodeOf(files: readonly string[]): BlockNodeSpec {
  if (files.length > MAX_VIEW_FILES) throw tooLong(files.length);
  const [first = '', ...rest] = files;
  return rest.reduce((below, file) => qcow2Node(fileNode(file), below), qcow2Node(fileNode(first), null));
}

/**
 * The same disk, read wherever it is not known to be zero: a quorum of one makes data of all the rest. What lies in a
 * backing file is called unallocated by a snapshot-access node, as by a window (7.2 and 10.0), and `compare` would take
 * it for zeros.
 */
export function readInFull(node: BlockNodeSpec): BlockNodeSpec {
  return quorumNode([node]);
}

/**
 * The same for an instant whose server answers rightly of single clusters only: it is read cluster by cluster, and called
 * zero where the scratch image, which holds what the guest has overwritten since, is zero, too. That one is asked second,
 * so that it knows of all that the first may have been wrong about, and never read.
 */
export function readByCluster(instant: BlockNodeSpec, scratch: BlockNodeSpec): BlockNodeSpec {
  const byCluster = { driver: 'blkdebug', align: IMAGE_CLUSTER, 'max-transfer': IMAGE_CLUSTER, image: instant };
  const neverRead = [{ event: 'none', iotype: 'read', errno: EIO }];
  return quorumNode([byCluster, { driver: 'blkdebug', 'inject-error': neverRead, image: scratch }]);
}

const EIO = 5;

function tooLong(files: number): QmpBackupError {
  return new QmpBackupError('failed', `a chain of ${files} files is too long to be opened at once`, {
    hint: `Shorten it first: qmpbackup rebase --dir DISKDIR --until FILE (at most ${MAX_VIEW_FILES} files can be left).`,
  });
}
