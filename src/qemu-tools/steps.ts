import { type BlockNodeSpec, nameOfNode } from '../core/block-node.js';
import {
  type CheckReport,
  type ImageInfo,
  type MapExtent,
  parseCheckReport,
  parseImageInfo,
  parseMap,
} from './image-info.js';
import { viewOf } from './image-view.js';
import { runLong, runShort } from './runner.js';

/**
 * The steps that qemu-img does for us, one function each. Images of a backup folder are passed as views (`viewOf`) of
 * files whose headers were examined (`examine.ts`). All sizes are bytes; every function throws as `runner.ts` says.
 */
export interface StepOptions {
  readonly signal?: AbortSignal | undefined;
}

export interface LongStepOptions extends StepOptions {
  /** The folder that the names in a view are relative to. */
  readonly cwd: string;
  /** Bytes per second; 0 or absent is no limit. */
  readonly rateLimit?: number | undefined;
  readonly onProgress?: ((percent: number) => void) | undefined;
  /** As in `runner.ts`. */
  readonly onWork?: ((cpuNs: number) => void) | undefined;
}

/** A check reads all metadata of an image, which takes long on slow storage: milliseconds. */
const CHECK_MS = 3_600_000;

/** Checks one image by itself; its parents are not opened. What is found is reported, not thrown. */
export async function check(
  path: string,
  options: StepOptions & { readonly repairLeaks?: boolean } = {},
): Promise<CheckReport> {
  const repair = options.repairLeaks ? ['-r', 'leaks'] : [];
  const { stdout } = await runShort(['check', '--output=json', ...repair, viewOf([path])], {
    // 2: corruptions, 3: leaks. 1 is a check that could not be done, and an error.
    allowed: [0, 2, 3],
    timeoutMs: CHECK_MS,
    signal: options.signal,
  });
  return parseCheckReport(stdout);
}

/** `forceShare` also looks at an image that a QEMU has open. */
export async function qemuImgInfo(
  path: string,
  options: StepOptions & { readonly forceShare?: boolean } = {},
): Promise<ImageInfo> {
  const share = options.forceShare ? ['-U'] : [];
  const { stdout } = await runShort(['info', '--output=json', ...share, viewOf([path])], { signal: options.signal });
  return parseImageInfo(stdout);
}

/** Where the data of a view is. */
export async function map(view: string, options: LongStepOptions): Promise<readonly MapExtent[]> {
  const { cwd, signal } = options;
  const { stdout } = await runShort(['map', '--output=json', view], { cwd, signal, timeoutMs: CHECK_MS });
  return parseMap(stdout);
}

/** Bytes that an image holds itself, what it holds as zeros included. Its parents are not opened. */
export async function allocatedIn(path: string, options: StepOptions = {}): Promise<number> {
  const extents = await map(viewOf([path]), { ...options, cwd: '/' });
  return extents.reduce((sum, { present, length }) => (present ? sum + length : sum), 0);
}

export type ImageFormat = 'qcow2' | 'raw';

export interface ConvertOptions extends LongStepOptions {
  /** Of the target; qcow2 unless told. */
  readonly format?: ImageFormat | undefined;
  /** The target is there with whatever bytes, and each is written over, zeros too. */
  readonly over?: boolean | undefined;
  /** The target is there and empty: it is written into as it is, and what reads as zeros is left out. */
  readonly existing?: boolean | undefined;
  readonly compress?: boolean | undefined;
  /** By the kernel, from file to file. What lies in the image as data stays data, also where it reads as zeros. */
  readonly offload?: boolean | undefined;
  /** Past the page cache, which the target's file system must take. */
  readonly direct?: boolean | undefined;
}

/** Requests at once that keep storage busy which is written to directly; measured. */
const DIRECT_REQUESTS = 16;

/** Copies a view into a standalone image, which it creates. `target` is an absolute path, or describes a node. */
export async function convert(view: string, target: string, options: ConvertOptions): Promise<void> {
  const existing = options.existing ? ['-n', '--target-is-zero'] : [];
  const compress = options.compress ? ['-c'] : [];
  const direct = options.direct ? ['-t', 'none', '-m', String(DIRECT_REQUESTS)] : [];
  const offload = options.offload ? ['-C'] : [];
  const over = options.over ? ['-n'] : [];
  const how = [...existing, ...over, ...compress, ...offload, ...direct, ...rate(options)];
  await runLong(['convert', '-p', ...how, '-O', options.format ?? 'qcow2', view, target], options);
}

/**
 * Copies what the top image of a view holds itself, zeros included, into `target`, an image that is there, empty, and builds on `base`.
 * What is below both has to be the same disk.
 */
export async function convertLayer(
  view: string,
  { target, base }: { readonly target: string; readonly base: string },
  options: LongStepOptions,
): Promise<void> {
  await runLong(['convert', '-p', '-n', '-B', base, '-F', 'qcow2', '-O', 'qcow2', view, target], options);
}

/**
 * Writes what the view holds above `base` into `base`, which must be spelled as in the view and grows where the view is
 * larger. Nothing else is written, so that a run that was killed can be run again.
 */
export async function commit(view: string, base: string, options: LongStepOptions): Promise<void> {
  await runLong(['commit', '-p', '-d', ...rate(options), '-b', base, view], options);
}

/** Sets the backing link in one header. Neither the old nor the new backing file is opened. */
export async function rebaseUnsafe(path: string, backing: string, options: StepOptions = {}): Promise<void> {
  await runShort(['rebase', '-u', '-q', '-F', 'qcow2', '-b', backing, viewOf([path])], options);
}

/** Takes the backing link out of one header. */
export async function removeBackingLink(path: string, options: StepOptions = {}): Promise<void> {
  await runShort(['rebase', '-u', '-q', '-b', '', viewOf([path])], options);
}

/** Whether two views hold the same bytes; the longer one may only have zeros beyond the other's end. A rate is kept to by `a`.
 * `forceShare` also reads images that a QEMU has open. */
export async function compare(
  a: string,
  b: string,
  options: LongStepOptions & { readonly forceShare?: boolean },
): Promise<boolean> {
  const { rateLimit = 0, forceShare = false } = options;
  const share = forceShare ? ['-U'] : [];
  const first = rateLimit === 0 ? [a] : throttled(a, rateLimit);
  const { exitCode } = await runLong(['compare', '-p', ...share, ...first, b], { ...options, allowed: [0, 1] });
  return exitCode === 0;
}

/** `compare` has no option for it. */
function throttled(name: string, rateLimit: number): readonly string[] {
  const group = { 'qom-type': 'throttle-group', id: 'rate', limits: { 'bps-total': rateLimit } };
  const below = JSON.parse(name.slice('json:'.length)) as BlockNodeSpec;
  const node = nameOfNode({ driver: 'throttle', 'throttle-group': group.id, file: below });
  return ['--object', JSON.stringify(group), node];
}

function rate({ rateLimit }: LongStepOptions): readonly string[] {
  return rateLimit === undefined || rateLimit === 0 ? [] : ['-r', String(rateLimit)];
}
