import { ANSWER_MS, freeSpace } from '../../host/free-space.js';
import { mountedDevice } from '../../host/mounts.js';

/** The space that `--keep-free` looks at. What a dry run would free of one VM is there for the next one on the same file system. */
export class FreeSpaceOfTargets {
  readonly #signal: AbortSignal;
  readonly #promised = new Map<string, number>();

  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** Bytes that are free, or would be, where the newest of `targets` is. */
  async free(targets: readonly string[]): Promise<number> {
    const { free } = await freeSpace(newest(targets), { timeoutMs: ANSWER_MS, signal: this.#signal });
    return free + (this.#promised.get(deviceOf(targets)) ?? 0);
  }

  /** Bytes that a dry run would free there. */
  promise(targets: readonly string[], bytes: number): void {
    const device = deviceOf(targets);
    this.#promised.set(device, (this.#promised.get(device) ?? 0) + bytes);
  }
}

function deviceOf(targets: readonly string[]): string {
  return mountedDevice(newest(targets)) ?? '';
}

function newest(targets: readonly string[]): string {
  return targets.at(-1) ?? '/';
}
