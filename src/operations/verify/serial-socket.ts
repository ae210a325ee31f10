import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { createServer } from 'node:net';
import type { Unwind } from '../../flow/unwind.js';
import { listenAt } from '../../host/listen-at.js';

/**
 * Listens for a guest's serial port, and appends what it says to a file, up to so many bytes. libvirt's own log of a port
 * has a limit that we do not know.
 */
export async function logSerialPort(
  socket: string,
  { log, mostBytes }: { readonly log: string; readonly mostBytes: number },
  unwind: Unwind,
): Promise<void> {
  const file = createWriteStream(log, { flags: 'a' });
  let full: Error | undefined;
  // That there is no room is seen by whoever watches that.
  file.on('error', (error) => (full = error));
  let bytes = 0;
  const server = createServer((port) => {
    // Its end tells of that, and of the guest's.
    port.on('error', () => port.destroy());
    port.on('data', (said: Buffer) => {
      bytes += said.length;
      if (bytes > mostBytes || full) port.destroy();
      // It says no more than is written.
      if (!full && !file.write(said)) {
        port.pause();
        file.once('drain', () => port.resume());
      }
    });
    unwind.defer(() => Promise.resolve(port.destroy()));
  });
  unwind.defer(async () => {
    server.close();
    if (full) return;
    file.end();
    await once(file, 'close');
  });
  await listenAt(server, socket);
}
