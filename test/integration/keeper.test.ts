import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { startLauncher } from '../../src/storage-daemon/launcher.js';
import { patient } from '../support/patience.js';
import { within } from '../../src/host/within.js';
import { afterTest, labDir } from '../support/scenario.js';

/** A server at this path, and somebody who is connected to it. */
async function client(path: string): Promise<Socket> {
  const server = createServer();
  server.listen(path);
  await once(server, 'listening');
  const socket = connect(path);
  await Promise.all([once(socket, 'connect'), once(server, 'connection')]);
  afterTest(async () => {
    socket.destroy();
    server.close();
    await once(server, 'close');
  });
  return socket;
}

it('a keeper goes on while its own socket has a client, and minds no other whose path has its path in it', async () => {
  // A path is told as it is, in a line of words.
  const dir = await labDir();
  const own = join(dir, 'a [b] c.sock');
  const launcher = await startLauncher(join(dir, 'log'), 'a keeper');
  afterTest(() => launcher.kill());
  const mine = await client(own);
  await client(`${own}.other`);
  await client(`${own} 2`);
  await launcher.keep(own);
  // Longer than it waits when the last has left.
  expect(await within(6_000, launcher.ended)).toBeUndefined();
  mine.destroy();
  expect(await within(patient(10_000), launcher.ended)).toBe('');
});
