import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { QmpCommandError } from '../qmp/errors.js';

/** QEMU's own NBD server on a unix socket, for nodes that are exported read-only. */

/** Throws QmpCommandError when a server is running already: QEMU has one only. */
export async function startNbdServer(client: QmpClient, path: string): Promise<void> {
  await run(client, 'nbd-server-start', { addr: { type: 'unix', data: { path } } });
}

/** No server is as good as one that was stopped. */
export async function stopNbdServer(client: QmpClient): Promise<void> {
  try {
    await run(client, 'nbd-server-stop');
  } catch (error) {
    if (!(error instanceof QmpCommandError && /not running/i.test(error.desc))) throw error;
  }
}

/** Exports a node read-only, under its id as name, with what of it the node holds itself (`qemu:allocation-depth`). */
export async function exportNode(client: QmpClient, node: string, id: string): Promise<void> {
  const named = { id, 'node-name': node, name: id };
  await run(client, 'block-export-add', { type: 'nbd', ...named, writable: false, 'allocation-depth': true });
}
