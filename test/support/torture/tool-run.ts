import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { crashArguments } from '../crash-point.js';
import { patient } from '../patience.js';
import { commandOf, type Message, openRelay, type Relay } from '../qmp-relay.js';
import type { DiskBytes } from './disk-bytes.js';
import type { Fault, Moment } from './steps.js';
import type { TortureVm } from './torture-vm.js';

/** One run of the tool through a relay, with one fault at one message of it. */
export interface ToolRun {
  readonly exitCode: number | undefined;
  readonly signal: string | undefined;
  readonly stdout: string;
  readonly stderr: string;
  /** Messages that went through the relay. */
  readonly messages: number;
  /** Whether the fault came to pass before the run was over. */
  readonly faulted: boolean;
  /** The VM is another QEMU since: it was migrated meanwhile. */
  readonly moved: boolean;
  /** What each disk held at the instant of the transaction; undefined where it came to none. */
  readonly instant: ReadonlyMap<string, DiskBytes> | undefined;
}

export interface Tool {
  /** `bin/qmpbackup.js` of the build under test. */
  readonly program: string;
  readonly torture: TortureVm;
  /** Ticks at everything that happens in the sequence. */
  readonly tick: () => number;
}

const RUN_MS = patient(60_000);
const DELAY_MS = 150;
const GUARD_MS = patient(10_000);

export async function runTool(tool: Tool, args: readonly string[], fault: Fault): Promise<ToolRun> {
  const { torture } = tool;
  const script = new Script(tool, fault);
  const relay = await openRelay(join(torture.dir, 'relay.sock'), torture.vm.socket, (message, pass) =>
    script.intercept(message, pass),
  );
  script.relay = relay;
  const crash = fault.kind === 'kill-tool-at-file' ? crashArguments({ ...fault, matches: /./ }) : [];
  const child = execa(process.execPath, [...crash, tool.program, '--socket', relay.socket, ...args], {
    reject: false,
    timeout: RUN_MS,
    killSignal: 'SIGKILL',
    // A run may have two processes; they die together.
    detached: true,
    env: { NO_COLOR: '1' },
  });
  script.killTool = async () => {
    await killGroup(child);
  };
  const result = await child;
  if (result.signal === 'SIGKILL' && torture.isUp) await untilStatus(torture);
  await relay.close();
  await torture.endMoved();
  if (result.timedOut) throw new Error(`the tool did not end within ${RUN_MS} ms:\n${result.stderr}`);
  const { exitCode, signal, stdout, stderr } = result;
  const faulted = script.faulted || (fault.kind === 'kill-tool-at-file' && signal === 'SIGKILL');
  return {
    exitCode,
    signal,
    stdout,
    stderr,
    messages: script.messages,
    faulted,
    moved: script.moved,
    instant: script.instant,
  };
}

/** A guard of a dead tool reaches QEMU by the relay to let the VM go on. */
async function untilStatus({ vm, expectedStatus }: TortureVm): Promise<void> {
  for (const until = performance.now() + GUARD_MS; ; await sleep(10)) {
    const { status } = (await vm.control.execute('query-status')) as { status: string };
    if (status === expectedStatus) return;
    if (performance.now() > until) throw new Error(`${GUARD_MS} ms after the tool was killed the VM is ${status}`);
  }
}

/**
 * SIGKILL to a program that was started in a group of its own, and to all in it. Resolves when it is dead: its output may
 * be held open by a guard that waits for the monitor.
 */
export async function killGroup(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const dead = once(child, 'exit');
  process.kill(-child.pid, 'SIGKILL');
  await dead;
}

/** What the relay does at each message of one run. */
class Script {
  relay: Relay | undefined;
  killTool: () => Promise<void> = () => Promise.resolve();
  messages = 0;
  faulted = false;
  moved = false;
  instant: ReadonlyMap<string, DiskBytes> | undefined;
  readonly #tool: Tool;
  readonly #fault: Fault;
  /** Number of the message that holds the transaction. */
  #transaction: number | undefined;
  /** Id of a command whose reply ends the time in which the instant may be at any moment. */
  #awaited: unknown;
  #instantIsPast = false;
  /** Connections, by their numbers; and those of the tool that was killed. */
  readonly #clients = new Set<number>();
  readonly #dead = new Set<number>();
  #due = false;
  /** Under way; nothing else passes meanwhile, or it could hold the instant. */
  #writing: Promise<void> = Promise.resolve();

  constructor(tool: Tool, fault: Fault) {
    this.#tool = tool;
    this.#fault = fault;
  }

  async intercept(message: Message, pass: () => void): Promise<void> {
    await this.#writing;
    this.messages = message.number;
    this.#clients.add(message.client);
    // What a dead tool has not sent, nobody hears. A guard that outlives it speaks for itself.
    if (this.#dead.has(message.client)) return;
    if (message.direction === 'to-qemu' && isPointTransaction(message.text)) this.#transaction ??= message.number;
    const at = 'at' in this.#fault ? this.#fault.at : undefined;
    if (at && !this.faulted && this.#isAt(message, at)) this.#due = true;
    if (this.#due && !this.faulted && at?.when === 'before' && this.#isTime()) await this.#strike();
    if (this.#dead.has(message.client)) return;
    this.#watchInstant(message);
    pass();
    if (this.#due && !this.faulted && this.#isTime()) await this.#strike();
  }

  #isAt({ number }: Message, { from, n }: Moment): boolean {
    if (from === 'start') return number === n;
    return this.#transaction !== undefined && number - this.#transaction === n;
  }

  /**
   * A write between the transaction and its reply would be before or after the instant: nobody could tell. With fleecing
   * that is from where the VM is stopped, and the filters go in, until it goes on: no guest writes then.
   */
  #isTime(): boolean {
    return this.#fault.kind !== 'write' || this.#awaited === undefined;
  }

  #watchInstant({ direction, text }: Message): void {
    if (direction === 'to-qemu') {
      const command = commandOf(text) ?? '';
      const isPoint = isPointTransaction(text);
      const isMoment = isPoint || ['stop', 'qom-set', 'cont'].includes(command);
      if (!isMoment || this.#instantIsPast) return;
      this.instant ??= new Map(this.#tool.torture.disks.map(({ id, bytes }) => [id, bytes]));
      this.#awaited =
        isPoint || command === 'cont' ? (JSON.parse(text) as { id: unknown }).id : 'the end of the instant';
      return;
    }
    if (this.#awaited !== undefined && (JSON.parse(text) as { id?: unknown }).id === this.#awaited) {
      this.#awaited = undefined;
      this.#instantIsPast = true;
    }
  }

  async #strike(): Promise<void> {
    this.faulted = true;
    const fault = this.#fault;
    const { torture, tick } = this.#tool;
    switch (fault.kind) {
      case 'none':
      case 'kill-tool-at-file':
        return;
      case 'kill-tool':
        for (const client of this.#clients) this.#dead.add(client);
        return this.killTool();
      case 'quit-qemu':
        await torture.quit(tick());
        return;
      case 'kill-qemu':
        return torture.kill(tick());
      case 'cancel-job':
        this.faulted = await this.#cancelJob(fault.job);
        return;
      case 'cut':
        return this.relay?.cut();
      case 'delay':
        await sleep(DELAY_MS);
        return;
      case 'write':
        return (this.#writing = torture.write(fault.writes));
      case 'foreign-job':
        return torture.startForeignJob(torture.disk(fault.disk));
      case 'migrate':
        this.moved = await torture.migrate(tick());
        return;
      case 'false-event':
        for (const event of FALSE_EVENTS) this.relay?.inject('to-tool', JSON.stringify(event));
        return;
    }
  }

  async #cancelJob(number: number): Promise<boolean> {
    const { control } = this.#tool.torture.vm;
    const jobs = (await control.execute('query-jobs')) as { id: string; status: string }[];
    const ours = jobs.filter(({ id, status }) => id.startsWith('qmpbackup-') && status === 'running');
    if (ours.length === 0) return false;
    const { id } = ours[number % ours.length]!;
    // It may have ended by now: then nothing happened.
    return control.execute('job-cancel', { id }).then(
      () => true,
      () => false,
    );
  }
}

/** One that starts jobs; with fleecing, others that add bitmaps came before. */
function isPointTransaction(text: string): boolean {
  return commandOf(text) === 'transaction' && text.includes('drive-backup');
}

const timestamp = { seconds: 1_800_000_000, microseconds: 0 };
const FALSE_EVENTS = [
  {
    ...{ event: 'BLOCK_JOB_COMPLETED', timestamp },
    data: { type: 'backup', device: 'somebody', len: 65536, offset: 65536, speed: 0 },
  },
  { event: 'JOB_STATUS_CHANGE', timestamp, data: { id: 'somebody', status: 'concluded' } },
];
