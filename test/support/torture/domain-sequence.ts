import { existsSync } from 'node:fs';
import { copyFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { crashArguments } from '../crash-point.js';
import { type DomainScenario, domainScenario, ourBitmapsIn } from '../domain-scenario.js';
import { compareImages } from '../lab/compare.js';
import { discard, flush, write, writeZeroes } from '../lab/guest-writes.js';
import type { LibvirtLab } from '../lab/libvirt.js';
import { run } from '../lab/programs.js';
import { patient } from '../patience.js';
import { type DomainFault, type DomainRunStep, type DomainStep, type ImageChange, KILLED } from './domain-steps.js';
import { TrackedDisks } from './tracked-disks.js';
import { readCatalogOf, strayFiles } from './leftovers.js';
import type { SequenceReport } from './sequence.js';
import type { Write } from './steps.js';
import { keepUp } from './upkeep.js';
import type { UpkeepStep } from './upkeep-steps.js';

export interface DomainSequenceOptions {
  readonly lab: LibvirtLab;
  /** bin/qmpbackup.js of the tool under test. */
  readonly program: string;
}

/** A point, and for each disk a copy of what it held at that instant. */
interface SeenPoint {
  readonly target: string;
  readonly id: string;
  readonly copies: ReadonlyMap<string, string>;
}

type WhileOff = Extract<DomainStep, { kind: 'while-off' }>;
type Libvirtd = Extract<DomainStep, { kind: 'libvirtd' }>;

const DISKS = ['vda', 'vdb'] as const;
const SECTOR = 512;
/** Bytes at either end of a disk. */
const WRITTEN = 4 * 1024 * 1024;
const REFUSED = 13;
const NO_TARGET = 10;
/** Per target at most the latest file's and the latest FULL's of each disk. */
const MOST_CHECKPOINTS = 8;

/** Lives the steps, and after each run compares its point, and at the end all points, with what the disks held. Throws what is wrong. */
export async function runDomainSequence(
  steps: readonly DomainStep[],
  { lab, program }: DomainSequenceOptions,
): Promise<SequenceReport> {
  const begun = performance.now();
  const life = new DomainLife(lab, program, await domainScenario(lab));
  try {
    for (const [index, step] of steps.entries()) {
      await told(`step ${index} (${step.kind})`, () => life.live(step));
    }
    await told('the end', () => life.end());
    return { ...life.counts, ms: performance.now() - begun };
  } finally {
    await life.forget();
  }
}

async function told(where: string, action: () => Promise<void>): Promise<void> {
  try {
    await action();
  } catch (error) {
    throw new Error(`${where}: ${(error as Error).message}`, { cause: error });
  }
}

async function forgetCopies({ copies }: SeenPoint): Promise<void> {
  for (const copy of copies.values()) await rm(copy, { force: true });
}

class DomainLife {
  readonly counts = { runs: 0, upkeeps: 0, faults: 0, compared: 0 };
  readonly #lab: LibvirtLab;
  readonly #program: string;
  readonly #scenario: DomainScenario;
  readonly #targets: readonly string[];
  /** Of each target, ids of its points that are pinned. */
  readonly #pinned = [new Set<string>(), new Set<string>()] as const;
  #points: readonly SeenPoint[] = [];
  readonly #tracked = new TrackedDisks();
  #copies = 0;
  #snapshots = 0;
  #bitmapsMayStay = false;

  constructor(lab: LibvirtLab, program: string, scenario: DomainScenario) {
    this.#lab = lab;
    this.#program = program;
    this.#scenario = scenario;
    this.#targets = [`${scenario.target}-0`, `${scenario.target}-1`];
  }

  async live(step: DomainStep): Promise<void> {
    const { domain } = this.#scenario;
    const state = await domain.state();
    const running = state === 'running';
    switch (step.kind) {
      case 'writes':
        if (running) await this.#write(step.writes);
        return;
      case 'run':
        return this.#run(step);
      case 'power':
        return state === 'shut off' ? domain.start() : domain.destroy();
      case 'power-cut':
        if (!running) return;
        await domain.kill();
        this.#tracked.forget();
        return domain.start();
      case 'while-off':
        return this.#whileOff(step);
      case 'libvirtd':
        return this.#restartLibvirtd(step);
      case 'snapshot':
        // A third one would add nothing but time.
        if (!running || this.#snapshots === 2) return;
        this.#snapshots += 1;
        // A commit brings back bitmaps of the images below, of which nobody knows then.
        this.#bitmapsMayStay = true;
        this.#tracked.forget();
        await this.#virsh(
          'snapshot-create-as',
          `snapshot-${this.#snapshots}-${Date.now()}`,
          '--disk-only',
          '--no-metadata',
        );
        return;
      case 'commit':
        if (!running || this.#snapshots === 0) return;
        for (const disk of DISKS) await this.#virsh('blockcommit', disk, '--active', '--pivot', '--wait');
        this.#snapshots = 0;
        this.#tracked.forget();
        return;
      case 'grow':
        this.#tracked.forget();
        return running ? this.#grow(DISKS[step.disk], step.bytes) : undefined;
      case 'checkpoint':
        if (running) await this.#virsh('checkpoint-create-as', `theirs-${Date.now()}`);
        return;
      case 'cleanup':
        return this.#cleanup();
      case 'recover':
        await this.#tool([...this.#scenario.vm, 'recover', '--target', this.#targets[step.target]!], [0, NO_TARGET]);
        return;
      case 'upkeep':
        return this.#keepUp(step);
    }
  }

  async #keepUp(step: UpkeepStep): Promise<void> {
    const dir = this.#targets[step.target]!;
    const look = (mayGo: ReadonlySet<string>): Promise<void> => this.#lookAt(dir, mayGo);
    const target = { dir, pinned: this.#pinned[step.target], look };
    const how = await keepUp(step, target, { program: this.#program, dir: this.#lab.dir });
    if (how !== false) this.counts.upkeeps += 1;
    if (how === 'faulted') this.counts.faults += 1;
  }

  /** Every point that a catalog names, opened as the chain that it is; `mayGo` are ids of those that it need not name. */
  async #lookAt(target: string, mayGo: ReadonlySet<string>): Promise<void> {
    const points = (await readCatalogOf(target))?.points ?? [];
    const ids = new Set(points.map(({ id }) => id));
    const gone = this.#points.filter((each) => each.target === target && !ids.has(each.id));
    for (const each of gone) {
      if (!mayGo.has(each.id)) throw new Error(`the point ${each.id} is gone from ${target}`);
      await forgetCopies(each);
    }
    this.#points = this.#points.filter((each) => !gone.includes(each));
    for (const { id, disks } of points) {
      const seen = this.#points.find((each) => each.target === target && each.id === id);
      if (!seen) throw new Error(`the point ${id} of ${target} is new`);
      for (const { disk, file } of disks) {
        const copy = seen.copies.get(disk) ?? '';
        await told(`${disk} of the point ${id}`, () => compareImages(join(target, disk, file), copy));
        this.counts.compared += 1;
      }
    }
  }

  /** Whatever came before: both targets take another point, all points are right, and no bitmap of ours has no end. */
  async end(): Promise<void> {
    await this.#runLast();
    // Where the first of them ended a domain that a killed run had started, they were of one that is off, and left its images alone.
    if (await this.#isOff()) await this.#runLast();
    for (const point of this.#points) await this.#compare(point);
    if (!(await this.#isOff())) await this.#scenario.domain.destroy();
    if (!this.#bitmapsMayStay) await this.#scenario.expectNoStrayBitmaps();
  }

  async #runLast(): Promise<void> {
    if (await this.#isOff()) await this.#scenario.domain.start();
    for (const target of [0, 1] as const) {
      const last = { push: false, startPaused: false, verify: false, compress: false, exclude: null } as const;
      await this.#run({ kind: 'run', target, level: 'auto', ...last, fault: { kind: 'none' } }, { refused: [] });
    }
  }

  async forget(): Promise<void> {
    const { domain } = this.#scenario;
    domain.forget();
    await this.#lab.virsh(['destroy', domain.uuid], { allowed: [0, 1] });
    await this.#lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata'], { allowed: [0, 1] });
    for (const point of this.#points) await forgetCopies(point);
  }

  async #run(
    step: DomainRunStep,
    { refused = [REFUSED] }: { readonly refused?: readonly number[] } = {},
  ): Promise<void> {
    const state = await this.#scenario.domain.state();
    const running = state === 'running';
    const target = this.#targets[step.target]!;
    const before = await this.#pointsOf(target);
    const copies = await this.#copyDisks();
    const { fault } = step;
    const push = step.push && running && fault.kind !== 'writes';
    const args = [
      ...['--json', ...this.#scenario.vm, 'backup', '--level', step.level, '--target', target],
      ...(push ? ['--method', 'push'] : step.verify ? ['--verify'] : []),
      ...(state === 'shut off' && step.startPaused ? ['--start-paused'] : []),
      ...(step.compress && !push ? ['--compress'] : []),
      ...(step.exclude === null ? [] : ['--exclude', DISKS[step.exclude]]),
      ...(fault.kind === 'writes' ? ['--speed-limit', '2M', '--no-digest'] : []),
    ];
    this.counts.runs += 1;
    if (fault.kind !== 'none') this.counts.faults += 1;
    const killed = await this.#runTool(args, fault, { running, refused });
    const catalog = (await readCatalogOf(target))?.points ?? [];
    const made = catalog.filter(({ id }) => !before.has(id));
    if (made.length > 1) throw new Error(`one run made ${made.length} points`);
    for (const { id, disks } of made) {
      const wanted = new Map([...copies].filter(([disk]) => disks.some((each) => each.disk === disk)));
      const point = { target, id, copies: wanted };
      await this.#compare(point);
      this.#points = [...this.#points, point];
    }
    if (running) this.#tracked.judge(target, catalog, made, step.level);
    else this.#tracked.forget();
    if (!killed && made.length > 0) await this.#expectNothingLeft(target, state);
  }

  /** Resolves to whether it was killed. */
  async #runTool(
    args: readonly string[],
    fault: DomainFault,
    { running, refused }: { readonly running: boolean; readonly refused: readonly number[] },
  ): Promise<boolean> {
    const preload = fault.kind === 'kill' ? crashArguments({ ...KILLED[fault.at]!, guards: fault.guards }) : [];
    // The job of a run that was killed may still be there.
    const before = fault.kind === 'writes' ? await this.#jobXml() : '';
    let ended = false;
    const child = execa(process.execPath, [...preload, this.#program, ...args], {
      ...{ reject: false, detached: preload.length > 0, timeout: patient(180_000), env: { NO_COLOR: '1' } },
    });
    const whole = child.finally(() => (ended = true));
    if (fault.kind === 'writes' && running) {
      const isBegun = async (): Promise<boolean> => !['', before].includes(await this.#jobXml());
      while (!ended && !(await isBegun())) await sleep(20);
      if (!ended) await this.#write(fault.writes);
    }
    const { exitCode, signal, timedOut, stdout, stderr } = await whole;
    if (timedOut) throw new Error(`qmpbackup ${args.join(' ')} hangs:\n${stderr}`);
    if (signal === 'SIGKILL') return true;
    if (exitCode === 0 || refused.includes(exitCode ?? -1)) return false;
    throw new Error(`qmpbackup ${args.join(' ')} ended with ${exitCode}:\n${stdout}\n${stderr}`);
  }

  async #tool(args: readonly string[], allowed: readonly number[]): Promise<void> {
    await this.#runTool(args, { kind: 'none' }, { running: false, refused: allowed });
  }

  async #cleanup(): Promise<void> {
    const known: string[] = [];
    for (const target of this.#targets) if (await readCatalogOf(target)) known.push('--target', target);
    if (known.length > 0)
      await this.#tool([...this.#scenario.vm, 'cleanup', '--remove-bitmaps', '--stale', ...known], [0]);
  }

  async #whileOff({ killed, anew, image, start }: WhileOff): Promise<void> {
    const { domain } = this.#scenario;
    if (!(await this.#isOff())) {
      if (killed) this.#tracked.forget();
      await (killed ? domain.kill() : domain.destroy());
    }
    if (image !== null) await this.#change(image);
    if (anew) {
      const { stdout: xml } = await this.#lab.virsh(['dumpxml', '--inactive', domain.uuid]);
      const file = join(this.#lab.dir, `${domain.name}-anew.xml`);
      await writeFile(file, xml);
      await this.#virsh('undefine', '--checkpoints-metadata');
      await this.#lab.virsh(['define', file]);
    }
    if (start) await domain.start();
  }

  /** The disk goes on in an image by the same name. */
  async #change({ disk: number, how }: ImageChange): Promise<void> {
    const disk = DISKS[number];
    const image = await this.#imageOf(disk);
    if (how === 'removed') {
      for (const name of await ourBitmapsIn(image)) await run('qemu-img', ['bitmap', '--remove', image, name]);
    } else {
      // Of one with a snapshot the images below have to stay what they are.
      if (this.#snapshots > 0) return;
      const earlier = `${image}.earlier`;
      if (how === 'copied') await run('qemu-img', ['convert', '-O', 'qcow2', image, `${image}.copy`]);
      else if (existsSync(earlier)) await rename(earlier, `${image}.copy`);
      else return copyFile(image, earlier);
      await rename(`${image}.copy`, image);
      // Its bitmaps may be some that have been dropped since.
      if (how === 'put-back') this.#bitmapsMayStay = true;
    }
    this.#tracked.forget(disk);
  }

  async #restartLibvirtd({ killed, forgets }: Libvirtd): Promise<void> {
    const runs = !(await this.#isOff());
    await this.#lab.stopDaemon(killed ? 'kill' : 'graceful');
    const checkpoints = join(this.#lab.dir, 'var/lib/libvirt/qemu/checkpoint', this.#scenario.domain.name);
    if (forgets) {
      await rm(checkpoints, { recursive: true, force: true });
      // Nothing tells of those that a QEMU has made since it began to run.
      if (runs) this.#bitmapsMayStay = true;
    }
    await this.#lab.startDaemon();
  }

  async #grow(disk: string, bytes: number): Promise<void> {
    const resize = ['blockresize', this.#scenario.domain.uuid, disk, `${(await this.#sizeOf(disk)) + bytes}B`];
    const { exitCode, stderr } = await this.#lab.virsh(resize, { allowed: [0, 1] });
    // QEMU was killed, and no backup has dropped the bitmap since.
    if (exitCode !== 0 && !stderr.includes('is inconsistent and cannot be used')) throw new Error(stderr);
  }

  async #write(writes: readonly Write[]): Promise<void> {
    const { domain } = this.#scenario;
    for (const { kind, disk: number, at, length, pattern } of writes) {
      const disk = DISKS[number % DISKS.length]!;
      const size = await this.#sizeOf(disk);
      const within = Math.floor(((WRITTEN - length) * at) / 999 / SECTOR) * SECTOR;
      // Close together, so that writes meet what was written before: at the beginning, and at an end that may move.
      const range = { offset: at % 2 === 0 ? within : size - WRITTEN + within, length };
      if (kind === 'write') await write(domain, disk, { ...range, pattern });
      else await (kind === 'zero' ? writeZeroes : discard)(domain, disk, range);
    }
  }

  async #copyDisks(): Promise<ReadonlyMap<string, string>> {
    const off = await this.#isOff();
    const copies = new Map<string, string>();
    for (const disk of DISKS) {
      if (!off) await flush(this.#scenario.domain, disk);
      this.#copies += 1;
      const copy = join(this.#lab.dir, `${this.#scenario.domain.name}-copy-${this.#copies}.qcow2`);
      await run('qemu-img', ['convert', '-U', '-O', 'qcow2', await this.#imageOf(disk), copy]);
      copies.set(disk, copy);
    }
    return copies;
  }

  async #compare({ target, id, copies }: SeenPoint): Promise<void> {
    const output = `${target}-restored`;
    await this.#tool(['restore', '--target', target, '--output', output, '--point', id], [0]);
    for (const [disk, copy] of copies) {
      await told(`${disk} of the point ${id}`, () => compareImages(join(output, `${disk}.qcow2`), copy));
      this.counts.compared += 1;
    }
    await rm(output, { recursive: true });
  }

  async #expectNothingLeft(target: string, before: string): Promise<void> {
    const { domain } = this.#scenario;
    const stray = await strayFiles(target);
    if (stray.length > 0) throw new Error(`files are left: ${stray.join(', ')}`);
    const state = await domain.state();
    // One that a killed run has started is ended by the next one into the same target.
    if (!['shut off', 'running', before].includes(state)) throw new Error(`the domain is ${state}`);
    if ((await this.#jobXml()) !== '') throw new Error('a job is left');
    const ours = (await this.#scenario.checkpoints()).filter((name) => name.startsWith('qmpbackup-'));
    if (ours.length > MOST_CHECKPOINTS) throw new Error(`checkpoints are left: ${ours.join(', ')}`);
  }

  async #pointsOf(target: string): Promise<ReadonlySet<string>> {
    return new Set((await readCatalogOf(target))?.points.map(({ id }) => id));
  }

  /** Names the folder of its run; empty without a job. */
  async #jobXml(): Promise<string> {
    return (await this.#lab.virsh(['backup-dumpxml', this.#scenario.domain.uuid], { allowed: [0, 1] })).stdout.trim();
  }

  async #isOff(): Promise<boolean> {
    return (await this.#scenario.domain.state()) === 'shut off';
  }

  async #imageOf(disk: string): Promise<string> {
    const { stdout } = await this.#lab.virsh(['domblklist', '--details', this.#scenario.domain.uuid]);
    const file = new RegExp(`^\\s*file\\s+disk\\s+${disk}\\s+(\\S+)$`, 'm').exec(stdout)?.[1];
    if (file === undefined) throw new Error(`${disk} has no image:\n${stdout}`);
    return file;
  }

  async #sizeOf(disk: string): Promise<number> {
    const { stdout } = await this.#lab.virsh(['domblkinfo', this.#scenario.domain.uuid, disk]);
    const size = /^Capacity:\s+(\d+)$/m.exec(stdout)?.[1];
    if (size === undefined) throw new Error(`${disk} has no size:\n${stdout}`);
    return Number(size);
  }

  async #virsh(command: string, ...args: string[]): Promise<void> {
    await this.#lab.virsh([command, this.#scenario.domain.uuid, ...args]);
  }
}
