import { once } from 'node:events';
import type { Server } from 'node:net';
import { fileError } from './file-errors.js';

/** Resolves when the server listens at the socket of that path. @throws QmpBackupError where it cannot */
export async function listenAt(server: Server, path: string): Promise<void> {
  server.listen(path);
  try {
    await once(server, 'listening');
  } catch (error) {
    throw fileError('listen at', path, error);
  }
}
