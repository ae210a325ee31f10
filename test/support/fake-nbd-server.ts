/**
 * An NBD server in memory that a test can make lie, hang and hang up, at any stage. Unscripted it behaves as qemu-nbd
 * and nbdkit do, which the contract suite holds it to.
 */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import type { NbdAddress } from '../../src/core/nbd-address.js';
import { NbdCommand, Intake, type Reader, take } from '../../src/nbd/wire.js';
import {
  blockSizeInfo,
  contextReply,
  dataChunk,
  errorChunk,
  exportInfo,
  greeting,
  optionReply,
  simpleReply,
  statusChunk,
} from './nbd-bytes.js';

export type Extents = readonly (readonly [length: number, flags: number])[];

export interface FakeRequest {
  /** The command flags: REQ_ONE (8) asks for one extent only. */
  readonly flags: number;
  readonly command: number;
  readonly cookie: bigint;
  readonly offset: number;
  readonly length: number;
}

/** What the server has come to when a script speaks up. */
export type Stage = 'connect' | 'flags' | 'structured' | 'contexts' | 'go';

/** Bytes to say instead of the usual; `hang` for ever; `hang-up`. Undefined leaves all as usual. */
export type Instead = Buffer | 'hang' | 'hang-up' | undefined;

export interface FakeNbdOptions {
  /** The disk itself: writes change it. */
  readonly disk: Buffer;
  /** Contexts by name: all extents of the disk. */
  readonly contexts?: Readonly<Record<string, Extents>>;
  /** At most so many extents in one answer. */
  readonly extentsAtOnce?: number;
  readonly tcp?: boolean;
  readonly exportName?: string;
  readonly atStage?: (stage: Stage) => Instead;
  readonly onRequest?: (request: FakeRequest) => Instead;
}

const FLAGS = 0x1 | 0x4 | 0x40;

export class FakeNbdServer {
  readonly requests: FakeRequest[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #options: FakeNbdOptions;

  static async start(options: FakeNbdOptions, path: string): Promise<FakeNbdServer> {
    const fake = new FakeNbdServer(options);
    fake.#server.listen(options.tcp ? { host: '127.0.0.1', port: 0 } : { path });
    await once(fake.#server, 'listening');
    return fake;
  }

  private constructor(options: FakeNbdOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  get address(): NbdAddress {
    const address = this.#server.address() as AddressInfo | string;
    return typeof address === 'string'
      ? { kind: 'unix', path: address }
      : { kind: 'tcp', host: address.address, port: address.port };
  }

  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async stop(): Promise<void> {
    this.hangUp();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    // A client that goes away in the middle is nothing to tell.
    socket.on('error', () => undefined);
    socket.on('close', () => this.#sockets.delete(socket));
    const intake = new Intake(this.#session(socket));
    socket.on('data', (data: Buffer) => {
      for (let at = 0; at < data.length;) {
        const space = intake.space;
        if (space === undefined) return;
        const count = Math.min(space.length, data.length - at);
        data.copy(space, 0, at, at + count);
        intake.received(count);
        at += count;
      }
    });
  }

  /** Whether the usual is to be said. */
  #usual(socket: Socket, instead: Instead): boolean {
    if (instead === undefined) return true;
    if (instead === 'hang-up') socket.destroy();
    else if (instead !== 'hang') socket.write(instead);
    return false;
  }

  *#session(socket: Socket): Reader<void> {
    const { atStage = () => undefined } = this.#options;
    if (!this.#usual(socket, atStage('connect'))) return;
    socket.write(greeting());
    yield* take(4);
    if (!this.#usual(socket, atStage('flags'))) return;
    const agreed = new Map<number, string>();
    if (!(yield* this.#negotiation(socket, atStage, agreed))) return;
    for (;;) yield* this.#transmission(socket, agreed);
  }

  /** Whether an export was opened. */
  *#negotiation(socket: Socket, atStage: (stage: Stage) => Instead, agreed: Map<number, string>): Reader<boolean> {
    const { exportName = '', contexts = {}, disk } = this.#options;
    for (;;) {
      const head = yield* take(16);
      const option = head.readUInt32BE(8);
      const data = yield* take(head.readUInt32BE(12));
      // As extended headers, with which newer QEMUs begin.
      if (option !== 7 && option !== 8 && option !== 10) {
        socket.write(optionReply(option, 0x8000_0001));
        continue;
      }
      const asked = option === 8 ? '' : data.toString('utf8', 4, 4 + data.readUInt32BE(0));
      const unknown = optionReply(option, 0x8000_0006, Buffer.from(`export ${asked} is not known`));
      if (option === 8) {
        if (!this.#usual(socket, atStage('structured'))) continue;
        socket.write(optionReply(8, 1));
      } else if (option === 10) {
        if (!this.#usual(socket, atStage('contexts'))) continue;
        const queries = textsOf(data.subarray(8 + Buffer.byteLength(asked)));
        const known = Object.keys(contexts).map((name, index) => ({ name, id: index + 1 }));
        const offered = known.filter(({ name }) => queries.includes(name));
        for (const { id, name } of offered) agreed.set(id, name);
        const replies = offered.map(({ name, id }) => contextReply(id, name));
        socket.write(asked === exportName ? Buffer.concat([...replies, optionReply(10, 1)]) : unknown);
      } else {
        if (!this.#usual(socket, atStage('go'))) continue;
        if (asked === exportName) {
          const infos = [exportInfo(disk.length, FLAGS), blockSizeInfo(1, 4096, 1024 * 1024)];
          socket.write(Buffer.concat([...infos, optionReply(7, 1)]));
          return true;
        }
        socket.write(unknown);
      }
    }
  }

  *#transmission(socket: Socket, agreed: ReadonlyMap<number, string>): Reader<void> {
    const head = yield* take(28);
    const request: FakeRequest = {
      flags: head.readUInt16BE(4),
      command: head.readUInt16BE(6),
      cookie: head.readBigUInt64BE(8),
      offset: Number(head.readBigUInt64BE(16)),
      length: head.readUInt32BE(24),
    };
    const payload = request.command === NbdCommand.write ? yield* take(request.length) : undefined;
    this.requests.push(request);
    if (!this.#usual(socket, this.#options.onRequest?.(request))) return;
    if (request.command === NbdCommand.disconnect) socket.end();
    else socket.write(this.#answer(request, payload, agreed));
  }

  #answer(
    { flags, command, cookie, offset, length }: FakeRequest,
    payload: Buffer | undefined,
    agreed: ReadonlyMap<number, string>,
  ): Buffer {
    const { disk, contexts = {}, extentsAtOnce = 1000 } = this.#options;
    if (offset + length > disk.length) return errorChunk(cookie, 22, 'beyond the end', { done: true });
    switch (command) {
      case NbdCommand.read:
        return dataChunk(cookie, offset, disk.subarray(offset, offset + length), true);
      case NbdCommand.write:
        payload?.copy(disk, offset);
        return simpleReply(cookie);
      case NbdCommand.writeZeroes:
        disk.fill(0, offset, offset + length);
        return simpleReply(cookie);
      case NbdCommand.blockStatus: {
        const chunks = [...agreed].map(([id, name], index) => {
          const most = (flags & 8) === 0 ? extentsAtOnce + index : 1;
          const told = extentsFrom(contexts[name] ?? [], offset, length).slice(0, most);
          if ((flags & 8) !== 0) told[0] = [Math.min(told[0]![0], length), told[0]![1]];
          return statusChunk(cookie, id, told, index === agreed.size - 1);
        });
        return Buffer.concat(chunks);
      }
      default:
        return simpleReply(cookie);
    }
  }
}

function textsOf(data: Buffer): string[] {
  const texts: string[] = [];
  for (let at = 0; at < data.length;) {
    const length = data.readUInt32BE(at);
    texts.push(data.toString('utf8', at + 4, at + 4 + length));
    at += 4 + length;
  }
  return texts;
}

/** From `offset` on; the last extent is not cut where the question ends, as nbdkit does it. */
function extentsFrom(extents: Extents, offset: number, length: number): Extents[number][] {
  let start = 0;
  return extents.flatMap(([each, flags]): Extents => {
    const end = start + each;
    const from = Math.max(start, offset);
    start = end;
    return from < end && from < offset + length ? [[end - from, flags]] : [];
  });
}
