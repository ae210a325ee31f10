import type { VmState } from '../../core/disk.js';
import { warning } from '../../core/warning.js';
import { messageOf } from '../../errors.js';
import type { CopyGuard } from '../../guards/copy-guard.js';
import { isOutcomeUnknown } from '../../libvirt/errors.js';
import { removeScratch } from '../../repository/scratch.js';
import type { DomainCopy, DomainRun } from './domain-method.js';
import { resumeAfterIoError } from './repair.js';

/**
 * What a copy takes from the guest while it lasts: the space that its scratch images take, and, where that gives out, its
 * time. Given back as soon as they are not needed, whatever becomes of the target or of this process.
 */
export class CopyGuestState {
  readonly #run: DomainRun;
  readonly #copy: DomainCopy;
  readonly #vm: VmState;
  #guard: CopyGuard | undefined;
  #begun: 'no' | 'perhaps' | 'yes' = 'no';
  #freed: Promise<void> | undefined;
  readonly #onAbort = (): void => void this.free();

  constructor(run: DomainRun, copy: DomainCopy, vm: VmState) {
    this.#run = run;
    this.#copy = copy;
    this.#vm = vm;
  }

  /** Ahead of the begin, which may have to be quick. */
  guardIt(): void {
    this.#guard = this.#copy.guard?.(this.#vm.running);
  }

  /** A target that hangs ends the run too late for anything else: the guest is freed when that is told. */
  async begin(begin: () => Promise<void>): Promise<void> {
    this.#begun = 'perhaps';
    try {
      await begin();
    } catch (error) {
      // libvirt has answered: it did not begin.
      if (!isOutcomeUnknown(error)) this.#begun = 'no';
      throw error;
    }
    this.#begun = 'yes';
    const { signal } = this.#run;
    signal.addEventListener('abort', this.#onAbort, { once: true });
    if (signal.aborted) this.#onAbort();
  }

  /** Where all was copied. */
  async endCopy(): Promise<void> {
    const { signal } = this.#run;
    signal.removeEventListener('abort', this.#onAbort);
    // The job that it would miss then is ended by ourselves.
    signal.throwIfAborted();
    await this.#copy.end();
    await this.#goOn();
    this.#guard?.release();
  }

  /** Where it was not. What cannot be done now, the guard, the undo or the next run does. */
  free(): Promise<void> {
    this.#freed ??= this.#freeNow().catch((error: unknown) => {
      this.#run.warn(
        warning('left-behind', `what the copy had begun in the domain could not be ended now: ${messageOf(error)}`),
      );
      this.#guard?.handOver();
    });
    return this.#freed;
  }

  async #freeNow(): Promise<void> {
    this.#run.signal.removeEventListener('abort', this.#onAbort);
    if (this.#begun === 'perhaps') {
      // What libvirt has begun the undo ends, too; what it may begin yet, the guard alone.
      this.#guard?.handOver();
      return;
    }
    if (this.#begun === 'yes' && this.#copy.giveUp) {
      await this.#copy.giveUp();
      await this.#goOn();
    }
    this.#guard?.release();
  }

  async #goOn(): Promise<void> {
    for (const folder of this.#copy.folders) await removeScratch(folder);
    if (this.#vm.running && this.#copy.giveUp) (await resumeAfterIoError(this.#run.session)).forEach(this.#run.warn);
  }
}
