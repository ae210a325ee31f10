import { randomBytes } from 'node:crypto';
import { fileNode } from '../core/block-node.js';
import { probeNodeName } from '../core/names.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';

/**
 * How QEMU writes an image. With `threads`, its default, all disks share 64 threads (7.2), and a job takes that many: when
 * its target hangs, reads and writes of the guest find none, on whichever disk. `io_uring` leaves that to the kernel.
 */
export type TargetAio = 'threads' | 'io_uring';

/**
 * Asks QEMU to open `path` for writing and to close it again, so that missing rights show before a guest is frozen.
 * Throws QmpCommandError with QEMU's own words.
 */
export async function probeWritable(client: QmpClient, path: string, aio: TargetAio): Promise<void> {
  const node = probeNodeName(randomBytes(4).toString('hex'));
  await run(client, 'blockdev-add', { 'node-name': node, ...fileNode(path, { aio }) });
  await run(client, 'blockdev-del', { 'node-name': node });
}
