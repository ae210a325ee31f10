import { type BlockNodeSpec, fileNode } from '../core/block-node.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { run } from '../qmp/commands.js';
import type { StorageDaemon } from './daemon.js';

/**
 * Opens files in the daemon, read-only, oldest first, each upon the one before and upon nothing that a header says.
 *
 * Each is opened alone, and one `blockdev-reopen` then links them, from the newest down. Were each added upon the one
 * before, QEMU would make up names that hold the whole chain below, for all of its nodes and whenever one is added: 700
 * files then take 160 s.
 *
 * @param name of this chain in the daemon
 * @param cacheBytes that each file may keep of its tables
 * @param below what the first is upon; null is nothing
 * @returns the node of the last file, or of what is below where there are none
 * @throws QmpBackupError `failed` in QEMU's words
 */
export async function addChain(
  { qmp }: StorageDaemon,
  name: string,
  paths: readonly string[],
  cacheBytes: number,
  below: BlockNodeSpec | null,
  signal: AbortSignal,
): Promise<string> {
  const format = (node: string, file: string, backing: string | null) =>
    ({ driver: 'qcow2', 'node-name': node, 'read-only': true, 'l2-cache-size': cacheBytes, file, backing }) as const;
  const nodes = paths.map((path, index) => ({ path, file: `${name}-f${index}`, node: `${name}-${index}` }));
  const bottom = `${name}-below`;
  if (below) await run(qmp, 'blockdev-add', { ...below, 'node-name': bottom, 'read-only': true }, { signal });
  for (const { path, file, node } of nodes) {
    try {
      await run(qmp, 'blockdev-add', { ...fileNode(path), 'node-name': file, 'read-only': true }, { signal });
      await run(qmp, 'blockdev-add', { ...format(node, file, null), 'node-name': node }, { signal });
    } catch (error) {
      signal.throwIfAborted();
      throw notOpened(path, error);
    }
  }
  const links = nodes.map(({ node, file }, index) =>
    format(node, file, index === 0 ? (below ? bottom : null) : `${name}-${index - 1}`),
  );
  const options = links.filter(({ backing }) => backing !== null).toReversed();
  if (options.length > 0) await run(qmp, 'blockdev-reopen', { options }, { signal, timeoutMs: Infinity });
  return nodes.at(-1)?.node ?? bottom;
}

/** An image of ours above a chain, for writing. */
export async function addOverlay(
  { qmp }: StorageDaemon,
  node: string,
  path: string,
  backing: string,
  signal: AbortSignal,
): Promise<void> {
  try {
    const spec = { driver: 'qcow2', file: fileNode(path), backing, 'read-only': false, 'node-name': node };
    await run(qmp, 'blockdev-add', spec, { signal });
  } catch (error) {
    signal.throwIfAborted();
    if (/Failed to get .*lock/.test(messageOf(error))) {
      throw new QmpBackupError('locked', `${path} is in use: another serve or a VM has it open`, {
        cause: error,
        hint: 'End that first, or choose another folder: --overlay DIR',
      });
    }
    throw notOpened(path, error);
  }
}

function notOpened(path: string, error: unknown): QmpBackupError {
  return new QmpBackupError('failed', `${path} cannot be opened: ${messageOf(error)}`, { cause: error });
}
