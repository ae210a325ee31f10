import { randomBytes } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import fc from 'fast-check';
import { compareImages } from '../lab/compare.js';
import { makeExt4 } from '../lab/disk-images.js';
import { flush } from '../lab/guest-writes.js';
import { type GuestVm, startQemu } from '../lab/qemu.js';
import { patient } from '../patience.js';
import { openRelay } from '../qmp-relay.js';
import { blockNodes, expectNothingLeft, neededBitmaps, readCatalogOf } from './leftovers.js';
import { killGroup } from './tool-run.js';

/**
 * SIGKILL of the tool at every QMP message of a run, of a real guest with a real agent: right after it the guest runs
 * and is thawed, and after the next run the chain equals the disks and QEMU has nothing of ours but the right bitmaps.
 */
export interface RunKind {
  readonly level: 'full' | 'inc';
  readonly quiesce: boolean;
  /** What `--fleece` is told; the option is left out where undefined. */
  readonly fleece: string | undefined;
}

export interface Cell extends RunKind {
  /** Of the messages of the run, both directions, from 1. */
  readonly message: number;
  readonly when: 'before' | 'after';
}

export interface KillReport {
  /** False where the run was over before that message. */
  readonly killed: boolean;
  /** Milliseconds from the kill until the guest was seen running and thawed. */
  readonly freeAfterMs: number;
}

const MiB = 1024 * 1024;
const DISKS = ['d1', 'd2'] as const;
const MOUNTS = ['/mnt/d1', '/mnt/d2'] as const;
/** Chains are begun anew after so many cells: old ones take space. */
const CELLS_PER_TARGET = 40;

export class KillLab {
  readonly #dir: string;
  readonly #program: string;
  readonly #vm: GuestVm;
  readonly #thawLimitMs: number;
  #target: string;
  #cells = 0;

  static async start(dir: string, program: string, thawLimitMs: number): Promise<KillLab> {
    const disks = DISKS.map((id, index) => ({ id, label: `DATA${index + 1}`, file: join(dir, `${id}.qcow2`) }));
    for (const { file, label } of disks) await makeExt4({ file, label, format: 'qcow2', size: 24 * MiB });
    const vm = await startQemu({
      dir: join(dir, 'vm'),
      name: 'killed',
      disks: disks.map(({ id, file }, index) => ({ id, file, ...(index === 1 && { via: 'blockdev' as const }) })),
      guest: true,
    });
    const lab = new KillLab(dir, program, vm, thawLimitMs);
    await lab.#clean('full');
    return lab;
  }

  private constructor(dir: string, program: string, vm: GuestVm, thawLimitMs: number) {
    this.#dir = dir;
    this.#program = program;
    this.#vm = vm;
    this.#thawLimitMs = thawLimitMs;
    this.#target = join(dir, 'target-0');
  }

  /** How many messages a run of this kind has, when nobody disturbs it. */
  async count(kind: RunKind): Promise<number> {
    const { messages } = await this.#runUntil(kind, undefined);
    return messages;
  }

  /** Throws where something is lost or left, or the guest is held up. */
  async take(cell: Cell): Promise<KillReport> {
    this.#cells += 1;
    if (this.#cells % CELLS_PER_TARGET === 0) await this.#beginAnew();
    await this.#writeInGuest();
    const { killed, freeAfterMs } = await this.#runUntil(cell, cell);
    await this.#writeInGuest();
    // A run that repairs may thaw, and so nothing can hold the guest still but for one that has nothing to repair.
    if (cell.quiesce) await this.#clean('auto');
    for (const mount of MOUNTS) await this.#vm.guest.holdStill(mount);
    await this.#clean('auto');
    await this.#expectRight();
    for (const mount of MOUNTS) await this.#vm.guest.letGo(mount);
    return { killed, freeAfterMs };
  }

  async end(): Promise<void> {
    await this.#vm.kill();
  }

  async #runUntil(
    { level, quiesce, fleece }: RunKind,
    kill: Pick<Cell, 'message' | 'when'> | undefined,
  ): Promise<KillReport & { readonly messages: number }> {
    let messages = 0;
    const clients = new Set<number>();
    const dead = new Set<number>();
    let killedAt: number | undefined;
    const relay = await openRelay(join(this.#dir, 'relay.sock'), this.#vm.socket, async ({ number, client }, pass) => {
      messages = number;
      clients.add(client);
      // What a dead tool has not sent, nobody hears; its guards live on.
      if (dead.has(client)) return;
      if (number !== kill?.message) return pass();
      if (kill.when === 'after') pass();
      killedAt = performance.now();
      for (const each of clients) dead.add(each);
      await killGroup(child);
    });
    const child = execa(
      process.execPath,
      [
        ...[this.#program, '--socket', relay.socket, '--agent-socket', this.#vm.agentSocket],
        ...['backup', '--level', level, '--target', this.#target, '--no-digest'],
        ...(quiesce ? ['--quiesce'] : []),
        ...(fleece === undefined ? [] : ['--fleece', fleece]),
      ],
      { reject: false, detached: true, timeout: patient(120_000) },
    );
    const { exitCode, stderr } = await child;
    if (killedAt === undefined && exitCode !== 0) throw new Error(`the run ended with ${exitCode}: ${stderr}`);
    // The guards that the dead tool left reach QEMU by the relay too.
    const freeAfterMs = killedAt === undefined ? 0 : await this.#untilFree(killedAt);
    await relay.close();
    return { messages, killed: killedAt !== undefined, freeAfterMs };
  }

  async #clean(level: string): Promise<void> {
    const result = await execa(
      process.execPath,
      [
        ...[this.#program, '--socket', this.#vm.socket, '--agent-socket', this.#vm.agentSocket],
        ...['backup', '--level', level, '--target', this.#target, '--no-digest'],
      ],
      { reject: false, timeout: patient(120_000) },
    );
    if (result.exitCode !== 0) throw new Error(`the next run ended with ${result.exitCode}: ${result.stderr}`);
  }

  async #untilFree(since: number): Promise<number> {
    for (;;) {
      const { status } = (await this.#vm.control.execute('query-status')) as { status: string };
      // A guest that stands still does not answer.
      const frozen =
        status === 'running' ? await Promise.all(MOUNTS.map((mount) => this.#vm.guest.isFrozen(mount))) : [];
      const ms = performance.now() - since;
      if (status === 'running' && !frozen.includes(true)) return ms;
      if (ms > this.#thawLimitMs)
        throw new Error(`${ms.toFixed(0)} ms after the kill: ${status}, frozen: ${frozen.join()}`);
      await sleep(20);
    }
  }

  async #writeInGuest(): Promise<void> {
    const name = randomBytes(1).readUInt8() % 6;
    const size = 40_000 + (randomBytes(2).readUInt16BE() % 400_000);
    const write = MOUNTS.map((mount) => `head -c ${size} /dev/urandom >${mount}/file${name}`);
    await this.#vm.guest.run(`${write.join(' && ')} && sync`);
  }

  async #expectRight(): Promise<void> {
    const { control } = this.#vm;
    await expectNothingLeft({ control, target: this.#target, status: 'running' });
    const { points } = (await readCatalogOf(this.#target))!;
    const nodes = await blockNodes(control);
    for (const id of DISKS) {
      const { file = '' } = this.#vm.disk(id);
      await flush(this.#vm, id);
      const newest = points.at(-1)!.disks.find(({ disk }) => disk === id)!;
      await compareImages(join(this.#target, id, newest.file), file);
      const carried = nodes.filter((node) => node.file === file).flatMap((node) => node['dirty-bitmaps'] ?? []);
      const needed = neededBitmaps(points, ({ disk }) => disk === id);
      const names = carried.map(({ name = '' }) => name).toSorted();
      if (names.join() !== [...new Set(needed)].toSorted().join()) {
        throw new Error(`${id} carries ${names.join(', ')} and not ${needed.join(', ')}`);
      }
    }
  }

  async #beginAnew(): Promise<void> {
    await execa(process.execPath, [this.#program, '--socket', this.#vm.socket, 'cleanup', '--remove-bitmaps']);
    await rm(this.#target, { recursive: true });
    this.#target = join(this.#dir, `target-${this.#cells}`);
    await this.#clean('full');
  }
}

export function cellInWords({ level, quiesce, fleece, message, when }: Cell): string {
  const options = [quiesce ? '--quiesce' : '', fleece === undefined ? '' : `--fleece ${fleece}`].filter(Boolean);
  return [`killed ${when} message ${message} of`, `--level ${level}`, ...options].join(' ');
}

export interface MatrixOptions {
  readonly dir: string;
  /** `bin/qmpbackup.js` of the build under test. */
  readonly program: string;
  /** Values for `--fleece`; undefined leaves the option out. */
  readonly fleece: readonly (string | undefined)[];
  /** Of the cells in an order that `seed` draws, those of part `part` (from 1) of `parts`. */
  readonly part: number;
  readonly parts: number;
  readonly seed: number;
  /** Milliseconds until the guest must be running and thawed after a kill. */
  readonly thawLimitMs: number;
  readonly onCell: (cell: Cell, report: KillReport, done: number, of: number) => void;
}

/** Takes the cells in turn, on one guest. Throws at the first that fails, naming it. */
export async function runKillMatrix(options: MatrixOptions): Promise<void> {
  const lab = await KillLab.start(options.dir, options.program, options.thawLimitMs);
  try {
    const cells: Cell[] = [];
    for (const fleece of options.fleece) {
      for (const quiesce of [false, true]) {
        for (const level of ['full', 'inc'] as const) {
          const kind = { level, quiesce, fleece };
          const messages = await lab.count(kind);
          // A command that QEMU has got and not answered to the tool is the state before its reply.
          for (let message = 1; message <= messages; message += 1) cells.push({ ...kind, message, when: 'before' });
          cells.push({ ...kind, message: messages, when: 'after' });
        }
      }
    }
    const [order] = fc.sample(fc.shuffledSubarray(cells, { minLength: cells.length }), {
      seed: options.seed,
      numRuns: 1,
    });
    const mine = order!.filter((_, index) => index % options.parts === options.part - 1);
    for (const [index, cell] of mine.entries()) {
      try {
        options.onCell(cell, await lab.take(cell), index + 1, mine.length);
      } catch (error) {
        throw new Error(`${cellInWords(cell)}: ${(error as Error).message}`, { cause: error });
      }
    }
  } finally {
    await lab.end();
  }
}
