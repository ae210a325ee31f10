/**
 * A monitor socket between the tool and QEMU: every message, in both directions, goes through the test's hands, which
 * may pass it on, hold it up, change it or drop it, and do something to anybody just before or just after. The tool
 * takes the process behind the socket for QEMU: through a relay that is the test's own.
 */
import { mkdir, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { openSocket } from './lab/line-socket.js';

export type Direction = 'to-qemu' | 'to-tool';

export interface Message {
  /** From 1, in the order in which messages came, both directions and all clients together. */
  readonly number: number;
  /** From 1: the connections in the order in which they came. Guards of the tool have one of their own. */
  readonly client: number;
  readonly direction: Direction;
  /** One line of JSON, without its end. */
  readonly text: string;
}

/**
 * What is done with a message: `pass` hands it on, or other text in its place; without that it is dropped. Later
 * messages of the same direction wait until it is done; those of the other direction do not.
 */
export type Intercept = (message: Message, pass: (text?: string) => void) => void | Promise<void>;

export interface Relay {
  /** The path for `--socket`. */
  readonly socket: string;
  /** Breaks off every connection, on both sides. */
  cut(): void;
  /** A message that nobody sent, to every client or on every connection to QEMU. */
  inject(direction: Direction, text: string): void;
  /** Resolves when QEMU is free for another client. */
  close(): Promise<void>;
}

/** Stands before the monitor at `monitor`. Throws from close() what `intercept` threw. */
export async function openRelay(socket: string, monitor: string, intercept: Intercept): Promise<Relay> {
  const links = new Set<Link>();
  let count = 0;
  let clients = 0;
  const server = createServer((client) => {
    clients += 1;
    const number = clients;
    links.add(
      link(client, monitor, (direction, text, pass) => {
        count += 1;
        return intercept({ number: count, client: number, direction, text }, pass);
      }),
    );
  });
  await mkdir(dirname(socket), { recursive: true });
  await rm(socket, { force: true });
  await listen(server, socket);
  return {
    socket,
    cut: () => links.forEach(({ cut }) => cut()),
    inject: (direction, text) => links.forEach(({ send }) => send(direction, text)),
    close: async () => {
      server.close();
      const outcomes = await Promise.allSettled([...links].map(({ ended }) => ended));
      for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    },
  };
}

export interface HeldRelay {
  readonly socket: string;
  /** Resolves when a transaction is being held up: a guest that is frozen for a point is frozen now. */
  readonly held: Promise<void>;
  /** Lets go what is held, also if the client is dead by now, as a monitor does that has already read it. */
  letGo(): void;
  close(): Promise<void>;
}

/** Holds the transaction up until it is told to let it go: a test stops the clock so between freeze and thaw. */
export async function startRelay(socket: string, monitor: string): Promise<HeldRelay> {
  const gate = { open: false, letGo: (): void => undefined, reached: (): void => undefined };
  const opened = new Promise<void>((resolve) => {
    gate.letGo = () => {
      gate.open = true;
      resolve();
    };
  });
  const held = new Promise<void>((resolve) => (gate.reached = resolve));
  const relay = await openRelay(socket, monitor, async ({ direction, text }, pass) => {
    if (direction === 'to-qemu' && commandOf(text) === 'transaction' && !gate.open) {
      gate.reached();
      await opened;
    }
    pass();
  });
  return {
    socket,
    held,
    letGo: gate.letGo,
    close: () => {
      gate.letGo();
      return relay.close();
    },
  };
}

/** The command that a line to QEMU calls. */
export function commandOf(text: string): string | undefined {
  return (JSON.parse(text) as { execute?: string }).execute;
}

// --- one client's connection -----------------------------------------------------------------------------------------

interface Link {
  readonly cut: () => void;
  readonly send: (direction: Direction, text: string) => void;
  /** From its beginning to its end on both sides. */
  readonly ended: Promise<void>;
}

type Each = (direction: Direction, text: string, pass: (text?: string) => void) => void | Promise<void>;

function link(client: Socket, monitor: string, each: Each): Link {
  let qemu: Socket | undefined;
  let isCut = false;
  const send = (direction: Direction, text: string): void => {
    const to = direction === 'to-qemu' ? qemu : client;
    if (to?.writable) to.write(`${text}\n`);
  };
  const run = async (): Promise<void> => {
    const clientClosed = closed(client);
    const upstream = await openSocket(monitor).catch(() => undefined);
    // As a monitor whose QEMU has gone.
    if (!upstream) return void client.destroy();
    qemu = upstream;
    const qemuClosed = closed(upstream);
    const fromQemu = inOrder(upstream, (text) => each('to-tool', text, (other = text) => send('to-tool', other)));
    const fromTool = inOrder(client, (text) => each('to-qemu', text, (other = text) => send('to-qemu', other)));
    if (isCut) upstream.destroy();
    void qemuClosed.then(async () => {
      // What QEMU said last comes before its end.
      await fromQemu().catch(() => undefined);
      if (isCut) client.destroy();
      else client.end();
    });
    await clientClosed;
    await fromTool();
    upstream.end();
    await qemuClosed;
    await fromQemu();
  };
  const ended = run();
  // Reported by close(); until then it is no unhandled rejection.
  ended.catch(() => undefined);
  return {
    cut: () => {
      isCut = true;
      client.destroy();
      qemu?.destroy();
    },
    send,
    ended,
  };
}

/** Hands the lines of a socket to `take`, each one after the one before is done; the result waits for the last. */
function inOrder(socket: Socket, take: (line: string) => void | Promise<void>): () => Promise<void> {
  let passed: Promise<void> = Promise.resolve();
  let rest = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      if (line.trim() !== '') passed = passed.then(() => take(line.trimEnd()));
    }
    passed.catch(() => socket.destroy());
  });
  return () => passed;
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
