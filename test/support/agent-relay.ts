/**
 * A socket between the tool and a real guest agent that spoils chosen answers: late, garbled, twice, swallowed, cut
 * off, or never asked for. All else goes through as it comes. Like the agent's own socket it serves one client at a time.
 */
import { createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { openSocket } from './lab/line-socket.js';

export type AgentFault =
  /** The answer, and all that come after it, are held back for so long. */
  | { readonly kind: 'late'; readonly ms: number }
  /** This instead of the answer. */
  | { readonly kind: 'garbled'; readonly text: string }
  | { readonly kind: 'twice' }
  | { readonly kind: 'swallowed' }
  /** The connection ends instead of the answer; the agent has done what it was asked. */
  | { readonly kind: 'cut' }
  /** The request never reaches the agent. */
  | { readonly kind: 'unheard' };

export interface AgentRule {
  readonly command: string;
  /** Which request of this command since the rule was set, from 1; every one unless told. */
  readonly nth?: number;
  readonly fault: AgentFault;
}

export class AgentRelay {
  readonly socket: string;
  readonly #server: Server;
  readonly #agent: string;
  readonly #links = new Set<Promise<void>>();
  #rule: AgentRule | undefined;
  #asked = 0;
  #hits = 0;

  private constructor(socket: string, agent: string) {
    this.socket = socket;
    this.#agent = agent;
    let before = Promise.resolve();
    this.#server = createServer((client) => {
      const link = before.then(() => this.#serve(client));
      before = link.catch(() => undefined);
      // Reported by close(); until then it is no unhandled rejection.
      link.catch(() => undefined);
      this.#links.add(link);
    });
  }

  /** `socket` is the path for `--agent-socket`, `agent` that of the real one. */
  static async start(socket: string, agent: string): Promise<AgentRelay> {
    const relay = new AgentRelay(socket, agent);
    await new Promise<void>((resolve, reject) => {
      relay.#server.once('error', reject);
      relay.#server.listen(socket, resolve);
    });
    return relay;
  }

  /** From now on this fault, and no other. */
  spoil(rule: AgentRule | undefined): void {
    this.#rule = rule;
    this.#asked = 0;
    this.#hits = 0;
  }

  /** How often the rule met its command since it was set. */
  get hits(): number {
    return this.#hits;
  }

  async close(): Promise<void> {
    this.#server.close();
    await Promise.all(this.#links);
  }

  /** One client's connection, from its beginning to its end on both sides. */
  async #serve(client: Socket): Promise<void> {
    const clientClosed = closed(client);
    const agent = await openSocket(this.#agent).catch((error: unknown) => {
      client.destroy();
      throw error;
    });
    const agentClosed = closed(agent);
    void clientClosed.then(() => agent.destroy());
    void agentClosed.then(() => client.destroy());

    const awaited: { readonly command: string; readonly fault: AgentFault | undefined }[] = [];
    onLines(client, (line) => {
      const command = commandOf(line);
      const fault = this.#faultFor(command);
      if (fault?.kind === 'unheard') return;
      if (command !== undefined) awaited.push({ command, fault });
      agent.write(line);
    });

    // In order: what comes after a held answer waits behind it.
    let passed: Promise<void> = Promise.resolve();
    const pass = (line: Buffer): void => void (client.writable && client.write(line));
    onLines(agent, (line) => {
      const fault = answersNothing(line, awaited[0]?.command) ? undefined : awaited.shift()?.fault;
      passed = passed.then(() => deliver(line, fault, pass, client));
    });
    await Promise.all([clientClosed, agentClosed]);
  }

  #faultFor(command: string | undefined): AgentFault | undefined {
    if (this.#rule === undefined || command !== this.#rule.command) return undefined;
    this.#asked += 1;
    const { nth, fault } = this.#rule;
    if (nth !== undefined && nth !== this.#asked) return undefined;
    this.#hits += 1;
    return fault;
  }
}

async function deliver(
  line: Buffer,
  fault: AgentFault | undefined,
  pass: (line: Buffer) => void,
  client: Socket,
): Promise<void> {
  switch (fault?.kind) {
    case undefined:
      return pass(line);
    case 'late':
      await sleep(fault.ms);
      return pass(line);
    case 'garbled':
      return pass(Buffer.from(`${fault.text}\n`));
    case 'twice':
      return pass(Buffer.concat([line, line]));
    case 'swallowed':
      return;
    case 'cut':
      client.destroy();
      return;
    case 'unheard':
      throw new Error('an answer to what was never asked');
  }
}

/** The agent complains about the 0xFF before a sync, which is no command. */
function answersNothing(line: Buffer, awaited: string | undefined): boolean {
  return awaited === 'guest-sync-delimited' && !line.includes(0xff);
}

function commandOf(line: Buffer): string | undefined {
  const start = line.indexOf('{');
  if (start < 0) return undefined;
  const { execute } = JSON.parse(line.subarray(start).toString()) as { readonly execute?: string };
  return execute;
}

/** Whole lines, each with its newline. */
function onLines(socket: Socket, each: (line: Buffer) => void): void {
  let rest: Buffer = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    rest = Buffer.concat([rest, chunk]);
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      each(rest.subarray(0, end + 1));
      rest = rest.subarray(end + 1);
    }
  });
}

function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    // A client that was killed resets its connection; the end is what counts.
    socket.on('error', () => undefined);
    socket.once('close', () => resolve());
  });
}
