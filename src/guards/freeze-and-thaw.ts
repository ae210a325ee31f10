/**
 * The guard: it alone talks to the guest agent during a freeze, and thaws when it is told to, when its parent is gone
 * (the end of `input`, however the parent died) or when the freeze limit is over. It serves one freeze; as soon as the
 * thaw is confirmed, or given up, nothing keeps its process alive.
 */
import type { Readable, Writable } from 'node:stream';
import { canFreeze, type FreezeStatus, GuestAgent } from '../guest-agent/client.js';
import { GuestAgentError, GuestNotThawed, thawAgentByHand, toPlainError } from '../guest-agent/errors.js';
import { type ThawRecord, thawUntilConfirmed } from '../guest-agent/thaw.js';
import { LineSplitter } from '../qmp/json-lines.js';
import { formatMessage, type FromGuard, parseToGuard, type ThawCause, type ToGuard } from './freeze-guard-messages.js';

type Start = Extract<ToGuard, { type: 'start' }>;

export class Guard {
  readonly #input: Readable;
  readonly #output: Writable;
  readonly #splitter = new LineSplitter();
  readonly #quit = new AbortController();
  #start: Start | undefined;
  #agent: GuestAgent | undefined;
  #limitTimer: NodeJS.Timeout | undefined;
  #freezeRequestedAt: number | undefined;
  #freezeAnsweredAt: number | undefined;
  #ending = false;

  constructor(input: Readable, output: Writable) {
    this.#input = input;
    this.#output = output;
    // The parent may be gone; then nobody reads what we say, and the end of `input` tells us.
    output.on('error', () => undefined);
    input.on('error', () => this.end('parent-gone'));
    input.on('close', () => this.end('parent-gone'));
    input.on('end', () => this.end('parent-gone'));
    input.on('data', (chunk: Buffer) => this.#onData(chunk));
  }

  /** Thaws if there is anything to thaw, and lets the process end. Calls after the first do nothing. */
  end(cause: ThawCause): void {
    if (this.#ending) return;
    this.#ending = true;
    clearTimeout(this.#limitTimer);
    void this.#end(cause);
  }

  async #end(cause: ThawCause, freezeError?: unknown): Promise<void> {
    try {
      if (this.#freezeRequestedAt !== undefined && this.#start !== undefined) {
        await this.#thaw(cause, this.#start, this.#freezeRequestedAt, freezeError);
      }
    } finally {
      this.#quit.abort(new Error('the guard was released'));
      this.#agent?.close();
      this.#input.destroy();
      this.#output.end();
    }
  }

  async #thaw(cause: ThawCause, start: Start, freezeRequestedAt: number, freezeError: unknown): Promise<void> {
    const freezeAnsweredAt = this.#freezeAnsweredAt;
    const refused = freezeError instanceof GuestAgentError && freezeError.kind === 'refused';
    const freezeUnanswered = freezeAnsweredAt === undefined && !refused;
    // A freeze that is still under way may take the rest of its time before the agent comes to the thaw.
    const freezeLeft = freezeUnanswered ? freezeRequestedAt + start.freezeTimeoutMs - performance.now() : 0;
    if (freezeUnanswered) this.#agent?.abandon('the freeze was given up');
    try {
      const thawing = thawUntilConfirmed({
        endpoint: start.agent,
        agent: this.#agent,
        askBefore: cause === 'finish',
        freezeUnanswered,
        timeoutMs: start.thawTimeoutMs + Math.max(freezeLeft, 0),
      });
      this.#say({ type: 'thawing' });
      const record = await thawing;
      this.#say({
        type: 'thawed',
        cause,
        statusBefore: record.before,
        timeline: timelineOf(record, freezeRequestedAt, freezeAnsweredAt),
        ...(freezeError === undefined ? {} : { freezeError: toPlainError(freezeError) }),
      });
    } catch (error) {
      this.#say({
        type: 'not-thawed',
        cause,
        error: toPlainError(error instanceof GuestNotThawed ? error.cause : error),
      });
    }
  }

  #onData(chunk: Buffer): void {
    const { lines, fault } = this.#splitter.push(chunk);
    try {
      if (fault !== undefined) throw fault;
      for (const line of lines) this.#obey(parseToGuard(line));
    } catch {
      // Only a parent gone mad says what we cannot read, and with it nobody but us will thaw.
      this.end('fault');
    }
  }

  #obey(message: ToGuard): void {
    if (this.#ending) return;
    switch (message.type) {
      case 'start':
        this.#start = message;
        void this.#connect(message);
        break;
      case 'freeze':
        if (this.#start === undefined || this.#agent === undefined) throw new Error('freeze before ready');
        void this.#freeze(this.#agent, this.#start);
        break;
      case 'status':
        void this.#status();
        break;
      case 'finish':
      case 'thaw':
        this.end(message.type);
        break;
    }
  }

  async #connect(start: Start): Promise<void> {
    const timeoutMs = start.connectTimeoutMs;
    try {
      const agent = await GuestAgent.connect(start.agent, { timeoutMs, signal: this.#quit.signal });
      this.#agent = agent;
      const info = await agent.info(timeoutMs);
      if (!canFreeze(info)) throw await this.#whyNoFreeze(agent, start);
      this.#say({ type: 'ready', agentVersion: info.version });
    } catch (error) {
      this.#say({ type: 'not-ready', error: toPlainError(error) });
      this.end('fault');
    }
  }

  /** A guest that is frozen disables the freeze, as does an agent that was configured so. No status: the latter. */
  async #whyNoFreeze(agent: GuestAgent, start: Start): Promise<GuestAgentError> {
    const status = await agent.fsfreezeStatus(start.connectTimeoutMs).catch(() => 'unknown');
    return status === 'frozen'
      ? new GuestAgentError('already-frozen', 'the guest is frozen already, and not by this run', {
          hint: `if no other backup is under way, thaw it: ${thawAgentByHand(start.agent)}`,
        })
      : new GuestAgentError('no-freeze', 'the guest agent has no guest-fsfreeze commands, or they are disabled', {
          hint: 'allow guest-fsfreeze-freeze, -thaw and -status in the configuration of qemu-guest-agent in the guest',
        });
  }

  async #freeze(agent: GuestAgent, start: Start): Promise<void> {
    const requestedAt = performance.now();
    this.#freezeRequestedAt = requestedAt;
    try {
      const fileSystems = await agent.freeze(start.freezeTimeoutMs);
      if (this.#ending) return;
      const answeredAt = performance.now();
      this.#freezeAnsweredAt = answeredAt;
      this.#limitTimer = setTimeout(() => this.end('limit'), start.freezeLimitMs);
      this.#say({ type: 'frozen', fileSystems, tookMs: answeredAt - requestedAt });
    } catch (error) {
      if (this.#ending) return;
      this.#ending = true;
      await this.#end('freeze-failed', error);
    }
  }

  async #status(): Promise<void> {
    try {
      if (this.#agent === undefined || this.#start === undefined) throw new Error('the guard is not connected');
      const status: FreezeStatus = await this.#agent.fsfreezeStatus(this.#start.connectTimeoutMs);
      if (!this.#ending) this.#say({ type: 'status', status });
    } catch (error) {
      if (!this.#ending) this.#say({ type: 'no-status', error: toPlainError(error) });
    }
  }

  #say(message: FromGuard): void {
    this.#output.write(formatMessage(message));
  }
}

function timelineOf(
  record: ThawRecord,
  freezeRequestedAt: number,
  freezeAnsweredAt: number | undefined,
): Extract<FromGuard, { type: 'thawed' }>['timeline'] {
  return {
    ...(freezeAnsweredAt === undefined ? {} : { freezeAnsweredMs: freezeAnsweredAt - freezeRequestedAt }),
    thawRequestedMs: record.requestedAt - freezeRequestedAt,
    thawAnsweredMs: record.answeredAt - freezeRequestedAt,
    confirmedMs: record.confirmedAt - freezeRequestedAt,
  };
}
