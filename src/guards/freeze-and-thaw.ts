/**
 * The guard: it alone talks to the guest agent during a freeze, and thaws when it is told to, when its owner is gone
 * (however it died) or when the freeze limit is over. It serves one freeze; as soon as the thaw is confirmed, or given
 * up, nothing keeps its process alive.
 */
import { canFreeze, type FreezeStatus, GuestAgent } from '../guest-agent/client.js';
import { GuestAgentError, GuestNotThawed, thawAgentByHand, toPlainError } from '../guest-agent/errors.js';
import { type ThawRecord, thawUntilConfirmed } from '../guest-agent/thaw.js';
import type {
  FreezeGuardTask,
  FreezeTimeline,
  FromFreezeGuard,
  ThawCause,
  ToFreezeGuard,
} from './freeze-guard-messages.js';
import type { Handlers } from './messages.js';
import { leaveOwner, tellOwner } from './own-side.js';

const say: (message: FromFreezeGuard) => void = tellOwner;

export class Guard {
  /** What it is told. While it ends, it obeys no more. */
  readonly orders: Handlers<ToFreezeGuard> = {
    freeze: () => void this.#freeze(this.#connected()),
    status: () => void this.#status(),
    finish: () => this.end('finish'),
    thaw: () => this.end('thaw'),
  };
  readonly #task: FreezeGuardTask;
  readonly #quit = new AbortController();
  #agent: GuestAgent | undefined;
  #limitTimer: NodeJS.Timeout | undefined;
  #freezeRequestedAt: number | undefined;
  #freezeAnsweredAt: number | undefined;
  #ending = false;

  constructor(task: FreezeGuardTask) {
    this.#task = task;
    void this.#connect();
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
      if (this.#freezeRequestedAt !== undefined) await this.#thaw(cause, this.#freezeRequestedAt, freezeError);
    } finally {
      this.#quit.abort(new Error('the guard was released'));
      this.#agent?.close();
      leaveOwner();
    }
  }

  async #thaw(cause: ThawCause, freezeRequestedAt: number, freezeError: unknown): Promise<void> {
    const { agent: endpoint, freezeTimeoutMs, thawTimeoutMs } = this.#task;
    const freezeAnsweredAt = this.#freezeAnsweredAt;
    const refused = freezeError instanceof GuestAgentError && freezeError.kind === 'refused';
    const freezeUnanswered = freezeAnsweredAt === undefined && !refused;
    // A freeze that is still under way may take the rest of its time before the agent comes to the thaw.
    const freezeLeft = freezeUnanswered ? freezeRequestedAt + freezeTimeoutMs - performance.now() : 0;
    if (freezeUnanswered) this.#agent?.abandon('the freeze was given up');
    try {
      const thawing = thawUntilConfirmed({
        endpoint,
        agent: this.#agent,
        askBefore: cause === 'finish',
        freezeUnanswered,
        timeoutMs: thawTimeoutMs + Math.max(freezeLeft, 0),
      });
      say({ type: 'thawing' });
      const record = await thawing;
      say({
        type: 'thawed',
        cause,
        statusBefore: record.before,
        timeline: timelineOf(record, freezeRequestedAt, freezeAnsweredAt),
        ...(freezeError === undefined ? {} : { freezeError: toPlainError(freezeError) }),
      });
    } catch (error) {
      const why = error instanceof GuestNotThawed ? error.cause : error;
      say({ type: 'not-thawed', cause, error: toPlainError(why) });
    }
  }

  async #connect(): Promise<void> {
    const { agent: endpoint, connectTimeoutMs: timeoutMs } = this.#task;
    try {
      const agent = await GuestAgent.connect(endpoint, { timeoutMs, signal: this.#quit.signal });
      this.#agent = agent;
      const info = await agent.info(timeoutMs);
      if (!canFreeze(info)) throw await this.#whyNoFreeze(agent);
      say({ type: 'ready', agentVersion: info.version });
    } catch (error) {
      say({ type: 'not-ready', error: toPlainError(error) });
      this.end('fault');
    }
  }

  /** A guest that is frozen disables the freeze, as does an agent that was configured so. No status: the latter. */
  async #whyNoFreeze(agent: GuestAgent): Promise<GuestAgentError> {
    const status = await agent.fsfreezeStatus(this.#task.connectTimeoutMs).catch(() => 'unknown');
    return status === 'frozen'
      ? new GuestAgentError('already-frozen', 'the guest is frozen already, and not by this run', {
          hint: `if no other backup is under way, thaw it: ${thawAgentByHand(this.#task.agent)}`,
        })
      : new GuestAgentError('no-freeze', 'the guest agent has no guest-fsfreeze commands, or they are disabled', {
          hint: 'allow guest-fsfreeze-freeze, -thaw and -status in the configuration of qemu-guest-agent in the guest',
        });
  }

  async #freeze(agent: GuestAgent): Promise<void> {
    if (this.#ending) return;
    const requestedAt = performance.now();
    this.#freezeRequestedAt = requestedAt;
    try {
      const fileSystems = await agent.freeze(this.#task.freezeTimeoutMs);
      if (this.#ending) return;
      const answeredAt = performance.now();
      this.#freezeAnsweredAt = answeredAt;
      this.#limitTimer = setTimeout(() => this.end('limit'), this.#task.freezeLimitMs);
      say({ type: 'frozen', fileSystems, tookMs: answeredAt - requestedAt });
    } catch (error) {
      if (this.#ending) return;
      this.#ending = true;
      await this.#end('freeze-failed', error);
    }
  }

  async #status(): Promise<void> {
    if (this.#ending) return;
    try {
      const status: FreezeStatus = await this.#connected().fsfreezeStatus(this.#task.connectTimeoutMs);
      if (!this.#ending) say({ type: 'status', status });
    } catch (error) {
      if (!this.#ending) say({ type: 'no-status', error: toPlainError(error) });
    }
  }

  #connected(): GuestAgent {
    if (this.#agent === undefined) throw new Error('the guard is not connected');
    return this.#agent;
  }
}

function timelineOf(
  record: ThawRecord,
  freezeRequestedAt: number,
  freezeAnsweredAt: number | undefined,
): FreezeTimeline {
  return {
    ...(freezeAnsweredAt === undefined ? {} : { freezeAnsweredMs: freezeAnsweredAt - freezeRequestedAt }),
    thawRequestedMs: record.requestedAt - freezeRequestedAt,
    thawAnsweredMs: record.answeredAt - freezeRequestedAt,
    confirmedMs: record.confirmedAt - freezeRequestedAt,
  };
}
