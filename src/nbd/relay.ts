import { connect, createServer, type Server, type Socket } from 'node:net';
import type { NbdAddress } from '../core/nbd-address.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { RequestReader, type SeenRequest } from './requests.js';

export interface RelayOptions {
  readonly at: NbdAddress;
  /** The server, on a socket of this host. */
  readonly to: string;
  /** Called before the server hears of it. */
  readonly onRequest: (request: SeenRequest) => void;
}

export interface Relay {
  /** Ends all connections. */
  readonly close: () => Promise<void>;
}

/** Stands before an NBD server and sees what its clients ask for. @throws QmpBackupError `failed` where it cannot listen */
export async function startRelay({ at, to, onRequest }: RelayOptions): Promise<Relay> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = connect({ path: to, allowHalfOpen: true });
    const reader = new RequestReader(onRequest);
    const end = (): void => {
      for (const each of [client, upstream]) each.destroy();
    };
    for (const each of [client, upstream]) {
      open.add(each);
      // Either side may go away at any time, and the other is told by its end.
      each.on('error', end).on('close', () => open.delete(each));
    }
    client.setNoDelay(true);
    client.on('data', (bytes: Buffer) => {
      try {
        reader.push(bytes);
      } catch {
        // What is not understood is not handed on: no byte leaves that was not seen to be asked for.
        end();
        return;
      }
      if (!upstream.write(bytes)) client.pause();
    });
    upstream.on('drain', () => client.resume());
    client.on('end', () => upstream.end());
    upstream.pipe(client);
  });
  await listen(server, at);
  return {
    close: async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const each of open) each.destroy();
      await closed;
    },
  };
}

async function listen(server: Server, at: NbdAddress): Promise<void> {
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(at.kind === 'unix' ? { path: at.path } : { host: at.host, port: at.port }, resolve);
    });
  } catch (error) {
    throw new QmpBackupError('failed', `it cannot be served: ${messageOf(error)}`, {
      cause: error,
      ...(at.kind === 'unix' ? {} : { hint: 'Choose another port.' }),
    });
  }
}
