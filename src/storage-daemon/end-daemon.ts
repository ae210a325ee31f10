import { join } from 'node:path';
import { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { QmpConnectionLost, QmpUnreachable } from '../qmp/errors.js';
import { SOCKET_NAME } from './daemon.js';
import { removePrivateFolder } from './private-folder.js';

/** Ends the daemon of a private folder that another process has opened, and removes the folder. Harmless once it is gone. */
export async function endDaemon(folder: string): Promise<void> {
  try {
    const client = await QmpClient.connect({ kind: 'unix', path: join(folder, SOCKET_NAME) });
    await run(client, 'quit');
    await client.close();
  } catch (error) {
    // It is gone, or goes without an answer.
    if (!(error instanceof QmpUnreachable) && !(error instanceof QmpConnectionLost)) throw error;
  }
  await removePrivateFolder(folder);
}
