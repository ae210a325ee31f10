/**
 * A QMP server that follows a script: it serves one client at a time as QEMU does, and can be told to hang, lie, stall
 * or hang up anywhere. The contract suite runs the same tests against it and against a real QEMU to keep it honest.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Endpoint } from '../../src/qmp/endpoint.js';

export interface FakeCall {
  readonly execute: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  readonly id: unknown;
}

/** Answers one command; may answer later, twice, out of order, or never. */
export type FakeHandler = (call: FakeCall, session: FakeSession) => void;

export interface FakeQmpOptions {
  /** `silent` says nothing; an object is what is sent instead of QEMU's greeting, as bytes or text. */
  readonly greeting?: 'qemu' | 'silent' | { readonly raw: string | Buffer };
  /** By command name; these come before the server's own. */
  readonly handlers?: Readonly<Record<string, FakeHandler>>;
  /** Called when a client is served, after the greeting. */
  readonly onServed?: (session: FakeSession) => void;
  readonly listen?: 'unix' | 'tcp';
}

export const FAKE_GREETING = {
  QMP: {
    version: { qemu: { micro: 22, minor: 2, major: 7 }, package: 'fake' },
    capabilities: ['oob'],
  },
};

export class FakeQmpServer {
  /** Every command that came in, of all clients, in order. */
  readonly received: FakeCall[] = [];
  readonly #options: FakeQmpOptions;
  readonly #server: Server;
  readonly #dir: string;
  readonly #waiting: Socket[] = [];
  #session: FakeSession | undefined;
  #endpoint: Endpoint | undefined;
  running = false;

  private constructor(dir: string, options: FakeQmpOptions) {
    this.#dir = dir;
    this.#options = options;
    this.#server = createServer((socket) => {
      socket.on('error', () => undefined);
      // A socket that nobody reads would not notice that its client gave up waiting.
      socket.resume();
      this.#waiting.push(socket);
      this.#serveNext();
    });
  }

  static async start(options: FakeQmpOptions = {}): Promise<FakeQmpServer> {
    const fake = new FakeQmpServer(await mkdtemp(join(tmpdir(), 'fake-qmp-')), options);
    await fake.#listen();
    return fake;
  }

  get endpoint(): Endpoint {
    if (this.#endpoint === undefined) throw new Error('the fake QMP server is not listening');
    return this.#endpoint;
  }

  /** The client that is served at present. */
  get session(): FakeSession {
    if (this.#session === undefined) throw new Error('the fake QMP server serves nobody');
    return this.#session;
  }

  async stop(): Promise<void> {
    this.#session?.hangUp();
    for (const socket of this.#waiting) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
    await rm(this.#dir, { recursive: true, force: true });
  }

  async #listen(): Promise<void> {
    const path = join(this.#dir, 'qmp.sock');
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      if (this.#options.listen === 'tcp') this.#server.listen(0, '127.0.0.1', resolve);
      else this.#server.listen(path, resolve);
    });
    const address = this.#server.address();
    this.#endpoint =
      typeof address === 'object' && address !== null
        ? { kind: 'tcp', host: address.address, port: address.port }
        : { kind: 'unix', path };
  }

  #serveNext(): void {
    if (this.#session !== undefined) return;
    let socket = this.#waiting.shift();
    while (socket?.destroyed === true) socket = this.#waiting.shift();
    if (socket === undefined) return;
    const session = new FakeSession(socket, (call) => this.#answer(call, session));
    this.#session = session;
    socket.on('close', () => {
      this.#session = undefined;
      this.#serveNext();
    });
    const { greeting = 'qemu' } = this.#options;
    if (greeting === 'qemu') session.send(FAKE_GREETING);
    else if (greeting !== 'silent') session.sendRaw(greeting.raw);
    this.#options.onServed?.(session);
  }

  #answer(call: FakeCall, session: FakeSession): void {
    this.received.push(call);
    const handler = this.#options.handlers?.[call.execute];
    if (handler !== undefined) handler(call, session);
    else this.#answerAsQemu(call, session);
  }

  #answerAsQemu(call: FakeCall, session: FakeSession): void {
    switch (call.execute) {
      case 'qmp_capabilities':
        session.reply(call, {});
        break;
      case 'query-status':
        session.reply(call, { status: this.running ? 'running' : 'prelaunch', running: this.running });
        break;
      case 'query-name':
        session.reply(call, { name: 'contract' });
        break;
      case 'query-uuid':
        session.reply(call, { UUID: '00000000-0000-0000-0000-000000000000' });
        break;
      case 'cont':
      case 'stop':
        this.running = call.execute === 'cont';
        session.event(this.running ? 'RESUME' : 'STOP');
        session.reply(call, {});
        break;
      case 'quit':
        session.event('SHUTDOWN', { guest: false, reason: 'host-qmp-quit' });
        session.reply(call, {});
        session.end();
        this.#server.close();
        break;
      default:
        session.fail(call, 'CommandNotFound', `The command ${call.execute} has not been found`);
    }
  }
}

/** One served client, as the script sees it. */
export class FakeSession {
  readonly #socket: Socket;
  readonly #onCall: (call: FakeCall) => void;
  #received = '';

  constructor(socket: Socket, onCall: (call: FakeCall) => void) {
    this.#socket = socket;
    this.#onCall = onCall;
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => this.#onText(text));
  }

  reply(call: FakeCall, value: unknown): void {
    this.send({ return: value, id: call.id });
  }

  fail(call: FakeCall, errorClass: string, desc: string): void {
    this.send({ id: call.id, error: { class: errorClass, desc } });
  }

  event(name: string, data?: Readonly<Record<string, unknown>>): void {
    const timestamp = { seconds: 1_700_000_000, microseconds: 250_000 };
    this.send({ timestamp, event: name, ...(data === undefined ? {} : { data }) });
  }

  send(message: unknown): void {
    this.sendRaw(`${JSON.stringify(message)}\r\n`);
  }

  sendRaw(bytes: string | Buffer): void {
    this.#socket.write(bytes);
  }

  /** Sends what is still queued, then closes. */
  end(): void {
    this.#socket.end();
    this.#socket.destroySoon();
  }

  hangUp(): void {
    this.#socket.destroy();
  }

  #onText(text: string): void {
    const lines = (this.#received + text).split('\n');
    this.#received = lines.pop() ?? '';
    for (const line of lines) {
      const call = readCall(line);
      if (call !== undefined) this.#onCall(call);
      else this.send({ error: { class: 'GenericError', desc: 'JSON parse error, expecting value' } });
    }
  }
}

function readCall(line: string): FakeCall | undefined {
  try {
    const message = JSON.parse(line) as Partial<FakeCall>;
    if (typeof message.execute !== 'string') return undefined;
    return { execute: message.execute, arguments: message.arguments ?? {}, id: message.id };
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
