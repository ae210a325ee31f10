import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { makeLabDir } from '../lab/programs.js';
import { difference, readDisk } from './disk-bytes.js';
import { blockNodes, type CatalogEntry, expectNothingLeft, neededBitmaps } from './leftovers.js';
import { type RunStep, type Sequence, type Step, stepInWords } from './steps.js';
import { canBuildOn, checkPoints, newTarget, noteRetired, readPoints, type TargetState } from './target-state.js';
import { runTool, type Tool, type ToolRun } from './tool-run.js';
import { deviceOf, FOREIGN_BITMAP, TortureVm } from './torture-vm.js';
import { keepUp } from './upkeep.js';
import type { UpkeepStep } from './upkeep-steps.js';

/**
 * Runs one torture sequence against a real QEMU and throws where anything is lost, torn or left behind: every point of
 * every catalog is compared bit for bit with what the disks held at its instant.
 */
export interface SequenceOptions {
  /** `bin/qmpbackup.js` of the build under test. */
  readonly program: string;
  /** Where the folder of the sequence is made; in that for temporary files unless told. */
  readonly dir?: string;
}

export interface SequenceReport {
  readonly ms: number;
  /** Backups. */
  readonly runs: number;
  /** Commands for a target without its VM. */
  readonly upkeeps: number;
  readonly faults: number;
  /** Images that were compared. */
  readonly compared: number;
}

/** The folder of a sequence that failed is kept, and named in the error. */
export async function runSequence(sequence: Sequence, options: SequenceOptions): Promise<SequenceReport> {
  const dir = options.dir === undefined ? await makeLabDir() : await mkdtemp(join(options.dir, 's-'));
  const begun = performance.now();
  const course = await Course.begin(dir, sequence, options);
  try {
    for (const [index, step] of sequence.steps.entries()) await course.take(step, index);
    await course.finish(sequence.restore);
    const { runs, upkeeps, faults, compared } = course;
    return { ms: performance.now() - begun, runs, upkeeps, faults, compared };
  } catch (error) {
    course.failed = true;
    const words = `${course.where}: ${(error as Error).message}${course.torture.lastWords}\nkept: ${dir}`;
    throw new Error(words, { cause: error });
  } finally {
    await course.torture.end();
    if (!course.failed) await rm(dir, { recursive: true, force: true });
  }
}

class Course {
  runs = 0;
  upkeeps = 0;
  faults = 0;
  compared = 0;
  failed = false;
  /** What is being done, for an error. */
  where = 'at the beginning';
  readonly torture: TortureVm;
  readonly #dir: string;
  readonly #tool: Tool;
  readonly #targets: readonly TargetState[];
  #foreignBitmap: boolean;
  #clock = 0;

  static async begin(dir: string, { vm }: Sequence, options: SequenceOptions): Promise<Course> {
    return new Course(dir, await TortureVm.make(dir, vm), options.program, vm.foreignBitmap);
  }

  private constructor(dir: string, torture: TortureVm, program: string, foreignBitmap: boolean) {
    this.#dir = dir;
    this.torture = torture;
    this.#tool = { program, torture, tick: this.#tick };
    this.#targets = [newTarget(join(dir, 'target-0')), newTarget(join(dir, 'target-1'))];
    this.#foreignBitmap = foreignBitmap && torture.disks[0]!.format === 'qcow2';
  }

  readonly #tick = (): number => (this.#clock += 1);

  async take(step: Step, index: number): Promise<void> {
    this.where = `step ${index + 1}, ${stepInWords(step)}`;
    const { torture } = this;
    if (!torture.isUp) await torture.start();
    switch (step.kind) {
      case 'writes':
        return torture.write(step.writes);
      case 'run':
        return this.#run(step);
      case 'restart':
        await torture.quit(this.#tick());
        return torture.start();
      case 'power-cut':
        await torture.kill(this.#tick());
        return torture.start();
      case 'grow':
        return torture.grow(torture.disk(step.disk), step.bytes);
      case 'migrate':
        await torture.migrate(this.#tick());
        return torture.endMoved();
      case 'snapshot':
        return torture.snapshot(torture.disk(step.disk), this.#tick());
      case 'upkeep':
        return this.#keepUp(step);
    }
  }

  async #keepUp(step: UpkeepStep): Promise<void> {
    // Of the other, where this one is not there yet.
    const target = this.#targets[step.target]!.used ? this.#targets[step.target]! : this.#targets[1 - step.target]!;
    const look = async (mayGo: ReadonlySet<string>): Promise<void> => {
      const found = await readPoints(target, mayGo);
      if (found.length > 0) throw new Error(`${found.join(', ')} are new`);
      this.compared += await checkPoints(target, this.torture, join(this.#dir, 'scratch'));
    };
    const { dir, pinned } = target;
    const how = await keepUp(step, { dir, pinned, look }, { program: this.#tool.program, dir: this.#dir });
    if (how !== false) this.upkeeps += 1;
    if (how === 'faulted') this.faults += 1;
  }

  async #run(step: RunStep): Promise<void> {
    const { torture } = this;
    const target = this.#targets[step.target]!;
    target.used = true;
    const included = step.include === null ? torture.disks : [torture.disk(step.include)];
    const { level } = step;
    const before = target.catalog;
    const safe =
      level === 'inc' || level === 'diff' ? included.map((disk) => canBuildOn(target, torture, disk, level)) : [];
    const isSafe = safe.includes(false) ? false : safe.includes(undefined) ? undefined : true;
    const run = await runTool(
      this.#tool,
      [
        ...['backup', '--level', level, '--target', target.dir],
        ...(this.runs % 2 === 0 ? [] : ['--no-digest']),
        ...(step.slow ? ['--speed-limit', '24M'] : []),
        ...['--fleece', step.fleece],
        ...(step.compress ? ['--compress'] : []),
        ...(step.include === null ? [] : ['--include', deviceOf(included[0]!.id)]),
      ],
      step.fault,
    );
    this.runs += 1;
    if (run.faulted) this.faults += 1;
    await this.#judge(step, target, run, isSafe);
    noteRetired(target, before, torture);
  }

  /** `isSafe`: undefined where nobody knows whether it has to refuse. */
  async #judge(
    { fault, fleece }: RunStep,
    target: TargetState,
    run: ToolRun,
    isSafe: boolean | undefined,
  ): Promise<void> {
    const ending = `it ended with ${run.signal ?? run.exitCode}:\n${run.stderr}`;
    const found = await readPoints(target);
    if (found.length > 1) throw new Error(`a run made ${found.length} points; ${ending}`);
    for (const id of found) {
      if (!run.instant) throw new Error(`point ${id} was made without a transaction; ${ending}`);
      target.points.set(id, { sealedAt: this.#tick(), bytes: run.instant });
    }
    const killed = run.signal !== undefined;
    if (killed && !(run.faulted && fault.kind.startsWith('kill-tool'))) throw new Error(`nobody killed it; ${ending}`);
    if (run.exitCode === 0 && found.length === 0) throw new Error(`it said that all is done and made no point`);
    if (!killed && run.exitCode !== 0 && found.length > 0) throw new Error(`it failed and made a point; ${ending}`);

    // With somebody else's job on a disk there is no fleecing.
    const refusable = fault.kind === 'foreign-job' && fleece === 'always';
    const harmless =
      !run.faulted || (!refusable && ['delay', 'write', 'foreign-job', 'false-event', 'migrate'].includes(fault.kind));
    // A VM that is elsewhere when its run begins is refused; within a run it stays.
    const mustEndWith = isSafe !== false && !(run.moved && !run.instant) ? 0 : 13;
    const mayRefuse = isSafe === undefined && run.exitCode === 13;
    if (harmless && !mayRefuse && run.exitCode !== mustEndWith) {
      throw new Error(`it must end with ${mustEndWith}; ${ending}`);
    }
    if (!killed && !(run.faulted && fault.kind === 'cut') && this.torture.isUp) {
      const status = this.torture.expectedStatus;
      await expectNothingLeft({ control: this.torture.vm.control, target: target.dir, status });
    }
  }

  /** A last clean run into each target, and then everything is compared. */
  async finish(restore: number): Promise<void> {
    const { torture } = this;
    this.where = 'the last runs';
    if (!torture.isUp) await torture.start();
    const used = this.#targets.filter((target) => target.used);
    for (const target of used) {
      const step: RunStep = {
        ...{
          kind: 'run',
          level: 'auto',
          include: null,
          slow: false,
          compress: false,
          fleece: 'auto',
          fault: { kind: 'none' },
        },
        target: this.#targets.indexOf(target) as 0 | 1,
      };
      await this.#run(step);
    }
    await this.#expectRightBitmaps(used);
    this.where = 'the comparison of all points';
    const scratch = join(this.#dir, 'scratch');
    for (const target of used) this.compared += await checkPoints(target, torture, scratch);
    this.where = 'a restore';
    if (used.length > 0) await this.#restore(used[restore % used.length]!, restore);
    this.where = 'the disks themselves';
    await torture.quit(this.#tick());
    for (const { id, file, format, bytes } of torture.disks) {
      const wrong = difference(await readDisk(file, format, scratch), bytes);
      if (wrong !== undefined) throw new Error(`${id} is not what was written to it: ${wrong}`);
    }
  }

  async #restore(target: TargetState, draw: number): Promise<void> {
    const points = target.catalog.filter((point) => point.chain !== null);
    const { id, disks } = points[Math.floor(draw / 2) % points.length]!;
    const output = join(this.#dir, 'restored');
    // A file name alone may be that of another disk in another point.
    const until = `${disks[0]!.disk}/${disks[0]!.file}`;
    const run = await runTool(this.#tool, ['restore', '--target', target.dir, '--output', output, '--until', until], {
      kind: 'none',
    });
    if (run.exitCode !== 0) throw new Error(`until ${until}: ${run.stderr}`);
    for (const { disk, source } of disks) {
      const found = await readDisk(join(output, `${disk}.qcow2`), 'qcow2', join(this.#dir, 'scratch'));
      const wrong = difference(found, target.points.get(id)!.bytes.get(this.torture.diskOfDevice(source.qdev).id)!);
      if (wrong !== undefined) throw new Error(`${disk}, restored until ${until}, is wrong: ${wrong}`);
    }
  }

  /** Per disk and target those of its newest file and its newest FULL; and whatever is not ours. */
  async #expectRightBitmaps(used: readonly TargetState[]): Promise<void> {
    const nodes = await blockNodes(this.torture.vm.control);
    for (const disk of this.torture.disks) {
      const isOfDisk = ({ source }: CatalogEntry): boolean => this.torture.diskOfDevice(source.qdev) === disk;
      const top = await this.torture.topNode(disk);
      const carried = nodes.find((node) => node['node-name'] === top)!['dirty-bitmaps'] ?? [];
      const names = carried.map(({ name = '' }) => name).filter((name) => name.startsWith('qmpbackup-'));
      const right = new Set(used.flatMap(({ catalog }) => neededBitmaps(catalog, isOfDisk)));
      const wrong = names.filter((name) => !right.has(name));
      if (wrong.length > 0)
        throw new Error(`${disk.id} carries ${wrong.join(', ')}, and should ${[...right].join(', ')}`);
      for (const { catalog } of used) {
        const newest = catalog.at(-1)!.disks.find(({ source }) => this.torture.diskOfDevice(source.qdev) === disk)
          ?.bitmap?.name;
        if (newest !== undefined && !names.includes(newest)) throw new Error(`${disk.id} has lost ${newest}`);
      }
      if (disk === this.torture.disks[0] && this.#foreignBitmap && disk.lostAt === 0) {
        if (!carried.some(({ name }) => name === FOREIGN_BITMAP)) throw new Error("somebody else's bitmap is gone");
      }
    }
  }
}
