import { randomBytes } from 'node:crypto';
import { probeNodeName } from '../domain/names.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';

/**
 * Asks QEMU to open `path` for writing and to close it again, so that missing rights show before a guest is frozen.
 * Throws QmpCommandError with QEMU's own words.
 */
export async function probeWritable(client: QmpClient, path: string): Promise<void> {
  const node = probeNodeName(randomBytes(4).toString('hex'));
  await run(client, 'blockdev-add', { 'node-name': node, driver: 'file', filename: path });
  await run(client, 'blockdev-del', { 'node-name': node });
}
