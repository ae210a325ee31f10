/**
 * A monitor socket between the tool and QEMU that holds up the transaction until it is told to let it go: that is how
 * a test stops the clock between freeze and thaw. All else goes through as it comes, one client after the other.
 */
import { mkdir } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { openSocket } from './lab/line-socket.js';

export interface QmpRelay {
  /** The path for `--socket`. */
  readonly socket: string;
  /** Resolves when a transaction is being held up: a guest that is frozen for a point is frozen now. */
  readonly held: Promise<void>;
  /** Lets go what is held, also if the client is dead by now, as a monitor does that has already read it. */
  letGo(): void;
  /** Resolves when QEMU is free for another client. */
  close(): Promise<void>;
}

export async function startRelay(socket: string, monitor: string): Promise<QmpRelay> {
  const gate = { open: false, letGo: (): void => undefined, reached: (): void => undefined };
  const opened = new Promise<void>((resolve) => {
    gate.letGo = () => {
      gate.open = true;
      resolve();
    };
  });
  const held = new Promise<void>((resolve) => (gate.reached = resolve));
  const links = new Set<Promise<void>>();
  const hold = (): Promise<void> => {
    if (!gate.open) gate.reached();
    return opened;
  };
  const server = createServer((client) => {
    const link = relay(client, monitor, hold);
    links.add(link);
    // Reported by close(); until then it is no unhandled rejection.
    link.catch(() => undefined);
  });
  await mkdir(dirname(socket), { recursive: true });
  await listen(server, socket);
  return {
    socket,
    held,
    letGo: gate.letGo,
    close: async () => {
      gate.letGo();
      server.close();
      await Promise.all(links);
    },
  };
}

/** One client's connection, from its beginning to its end on both sides. */
async function relay(client: Socket, monitor: string, hold: () => Promise<void>): Promise<void> {
  const clientClosed = closed(client);
  const qemu = await openSocket(monitor);
  const qemuClosed = closed(qemu);
  qemu.on('data', (chunk: Buffer) => {
    if (client.writable) client.write(chunk);
  });
  void qemuClosed.then(() => client.destroy());
  // In order: what comes after a held line waits behind it, and so does the end.
  let passed: Promise<void> = Promise.resolve();
  let rest = '';
  client.setEncoding('utf8');
  client.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      passed = passed.then(async () => {
        if (isTransaction(line)) await hold();
        qemu.write(`${line}\n`);
      });
    }
  });
  await clientClosed;
  await passed;
  qemu.end();
  await qemuClosed;
}

function isTransaction(line: string): boolean {
  return (JSON.parse(line) as { execute?: string }).execute === 'transaction';
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    // A client that was killed resets its connection; the end is what counts.
    socket.on('error', () => undefined);
    socket.once('close', () => resolve());
  });
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
}
