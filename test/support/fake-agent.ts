/**
 * A guest agent that follows a script. Like the real one behind its port it does one command after another, serves one
 * client at a time and lets the others wait, answers into whatever connection there is when it comes to it, and
 * complains about a stray 0xFF. The contract suite holds it against a real qemu-ga.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Endpoint } from '../../src/qmp/endpoint.js';
import { patient } from './patience.js';

/** What becomes of one command. */
export interface Reaction {
  /** Before the command is carried out; meanwhile the agent does nothing else, as the real one. In ms. */
  readonly afterMs?: number;
  /** The same, until this settles. */
  readonly until?: Promise<unknown>;
  /** Leave the command undone, whatever is answered. */
  readonly undone?: boolean;
  /** `raw` is sent as it is. Without this, the answer that belongs to the command. */
  readonly answer?: 'none' | 'twice' | { readonly error: string } | { readonly raw: string | Buffer };
  /** The answer again, so many ms after the first. */
  readonly againAfterMs?: number;
  readonly hangUp?: 'before-answer' | 'after-answer';
}

/** `count` is how many times this command has come, from 1. */
export type Script = (command: string, count: number) => Reaction | undefined;

export interface FakeAgentOptions {
  readonly fileSystems?: number;
  readonly frozen?: boolean;
  /** Commands that guest-info lists as disabled, and that are refused. */
  readonly disabled?: readonly string[];
  readonly script?: Script;
  /** What every client finds in its connection: the rest of an earlier conversation. */
  readonly leftOver?: string | Buffer;
  readonly listen?: 'unix' | 'tcp';
}

const COMMANDS = [
  'guest-ping',
  'guest-info',
  'guest-sync-delimited',
  'guest-fsfreeze-status',
  'guest-fsfreeze-freeze',
  'guest-fsfreeze-thaw',
  'guest-exec',
];
const WHILE_FROZEN = COMMANDS.filter((name) => name !== 'guest-fsfreeze-freeze' && name !== 'guest-exec');
const MARK = 0xff;

export class FakeAgent {
  /** Changed by the tests in the middle, too. */
  script: Script;
  frozen: boolean;
  /** Every command that was begun, with `performance.now()`. */
  readonly received: { readonly command: string; readonly at: number }[] = [];
  /** Every change of the freeze state, with `performance.now()`. */
  readonly changes: { readonly frozen: boolean; readonly at: number }[] = [];
  readonly #options: FakeAgentOptions;
  readonly #server: Server;
  readonly #dir: string;
  readonly #waiting: Socket[] = [];
  readonly #counts = new Map<string, number>();
  #client: Socket | undefined;
  #input = Buffer.alloc(0);
  #work: Promise<void> = Promise.resolve();
  #endpoint: Endpoint | undefined;
  #closed = false;

  private constructor(dir: string, options: FakeAgentOptions) {
    this.#dir = dir;
    this.#options = options;
    this.script = options.script ?? (() => undefined);
    this.frozen = options.frozen ?? false;
    this.#server = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.pause();
      this.#waiting.push(socket);
      this.#serveNext();
    });
  }

  static async start(options: FakeAgentOptions = {}): Promise<FakeAgent> {
    const agent = new FakeAgent(await mkdtemp(join(tmpdir(), 'fake-ga-')), options);
    await agent.listen();
    return agent;
  }

  get endpoint(): Endpoint {
    if (this.#endpoint === undefined) throw new Error('the fake agent does not listen');
    return this.#endpoint;
  }

  /** How often a command was begun. */
  count(command: string): number {
    return this.#counts.get(command) ?? 0;
  }

  async listen(): Promise<void> {
    const path = join(this.#dir, 'agent.sock');
    const tcp = this.#options.listen === 'tcp';
    await new Promise<void>((resolve) => {
      if (tcp) this.#server.listen(0, '127.0.0.1', resolve);
      else this.#server.listen(path, resolve);
    });
    const address = this.#server.address();
    this.#endpoint =
      tcp && typeof address === 'object' && address !== null
        ? { kind: 'tcp', host: '127.0.0.1', port: address.port }
        : { kind: 'unix', path };
  }

  /** As if QEMU had ended: the connections break, and nobody listens any more. */
  async stopListening(): Promise<void> {
    const stopped = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.hangUp();
    for (const socket of this.#waiting.splice(0)) socket.destroy();
    await stopped;
  }

  /** Breaks the connection of the client that is served. */
  hangUp(): void {
    this.#client?.destroy();
  }

  /** Resolves as soon as `condition` holds; rejects after `deadlineMs`. */
  async waitUntil(condition: (agent: FakeAgent) => boolean, deadlineMs: number, what: string): Promise<void> {
    const until = performance.now() + patient(deadlineMs);
    while (!condition(this)) {
      if (performance.now() > until) throw new Error(`the fake agent has not seen this in ${deadlineMs} ms: ${what}`);
      await sleep(5);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#server.listening) await this.stopListening();
    await rm(this.#dir, { recursive: true, force: true });
  }

  #serveNext(): void {
    if (this.#client !== undefined) return;
    const socket = this.#waiting.shift();
    if (socket === undefined) return;
    this.#client = socket;
    if (this.#options.leftOver !== undefined) socket.write(this.#options.leftOver);
    socket.on('data', (chunk: Buffer) => this.#read(chunk));
    socket.on('close', () => {
      this.#client = undefined;
      this.#serveNext();
    });
    socket.resume();
  }

  #read(chunk: Buffer): void {
    this.#input = Buffer.concat([this.#input, chunk]);
    for (let end = this.#input.indexOf('\n'); end !== -1; end = this.#input.indexOf('\n')) {
      const line = this.#input.subarray(0, end);
      this.#input = this.#input.subarray(end + 1);
      this.#work = this.#work.then(() => this.#carryOut(line));
    }
  }

  async #carryOut(line: Buffer): Promise<void> {
    const mark = line.lastIndexOf(MARK);
    if (mark !== -1) this.#send(errorAnswer(`JSON parse error, stray '\\uFFFD'`));
    const request = JSON.parse(line.subarray(mark + 1).toString()) as {
      readonly execute: string;
      readonly arguments?: { readonly id?: number };
    };
    const { execute: command } = request;
    const count = this.count(command) + 1;
    this.#counts.set(command, count);
    this.received.push({ command, at: performance.now() });
    const reaction = this.script(command, count) ?? {};

    if (reaction.afterMs !== undefined) await sleep(reaction.afterMs);
    await reaction.until;
    const own = this.#ownAnswer(command, request.arguments?.id, reaction.undone === true);
    if (reaction.hangUp === 'before-answer') this.hangUp();
    const answer = answerOf(reaction, own);
    if (answer !== undefined) this.#send(answer);
    if (reaction.answer === 'twice') this.#send(own);
    if (reaction.againAfterMs !== undefined) {
      setTimeout(() => this.#send(own), reaction.againAfterMs);
    }
    if (reaction.hangUp === 'after-answer') this.#client?.end(() => this.hangUp());
  }

  #ownAnswer(command: string, id: number | undefined, undone: boolean): string | Buffer {
    const { disabled = [], fileSystems = 2 } = this.#options;
    if (!COMMANDS.includes(command)) return errorAnswer(`The command ${command} has not been found`);
    if (disabled.includes(command)) return errorAnswer(`Command ${command} has been disabled`);
    if (this.frozen && !WHILE_FROZEN.includes(command)) {
      return errorAnswer(`Command ${command} has been disabled: the agent is in frozen state`);
    }
    switch (command) {
      case 'guest-sync-delimited':
        return Buffer.concat([Buffer.of(MARK), Buffer.from(returnAnswer(id))]);
      case 'guest-info':
        return returnAnswer({
          version: '7.2.22',
          supported_commands: COMMANDS.map((name) => ({
            name,
            enabled: !disabled.includes(name) && (!this.frozen || WHILE_FROZEN.includes(name)),
            'success-response': true,
          })),
        });
      case 'guest-fsfreeze-status':
        return returnAnswer(this.frozen ? 'frozen' : 'thawed');
      case 'guest-fsfreeze-freeze':
        // With nothing to freeze the real agent stays thawed.
        if (!undone && fileSystems > 0) this.#change(true);
        return returnAnswer(fileSystems);
      case 'guest-fsfreeze-thaw': {
        const thawed = this.frozen ? fileSystems : 0;
        if (!undone) this.#change(false);
        return returnAnswer(thawed);
      }
      default:
        return returnAnswer({});
    }
  }

  #change(frozen: boolean): void {
    if (this.frozen === frozen) return;
    this.frozen = frozen;
    this.changes.push({ frozen, at: performance.now() });
  }

  #send(bytes: string | Buffer): void {
    if (this.#client?.writable === true) this.#client.write(bytes);
  }
}

function answerOf(reaction: Reaction, own: string | Buffer): string | Buffer | undefined {
  const { answer } = reaction;
  if (answer === 'none') return undefined;
  if (answer === undefined || answer === 'twice') return own;
  return 'raw' in answer ? answer.raw : errorAnswer(answer.error);
}

function returnAnswer(value: unknown): string {
  return `${JSON.stringify({ return: value })}\n`;
}

function errorAnswer(desc: string): string {
  return `${JSON.stringify({ error: { class: 'GenericError', desc } })}\n`;
}
