import { consolidateDomain } from '../backends/libvirt/consolidate-source.js';
import type { ConsolidatedDisk } from '../core/overlay-layers.js';
import { LOCK_OPTIONS, requireVm, VM_OPTIONS } from '../backends/vm-options.js';
import { contextOf, type VerbContext, type WarningEvent } from '../backends/verb-context.js';
import { choice, type OptionRules, type RequestOf, valuesOf, yesOrNo } from '../core/option-rules.js';
import type { RepairAction } from '../core/reconcile.js';
import { QmpBackupError } from '../errors.js';
import { unwinding } from '../flow/unwind.js';

/** Takes the overlays of `--method overlay` out of the disks of a running libvirt domain. */
export const CONSOLIDATE_SOURCE_OPTIONS = {
  ...VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** What becomes of the overlays of other programs: `commit` into the lowest image, `pull` into the uppermost, or none. */
  adopt: choice('--adopt', ['none', 'commit', 'pull'], 'none'),
  /** Says what would be merged. */
  dryRun: yesOrNo('--dry-run'),
} satisfies OptionRules;

export type ConsolidateSourceRequest = RequestOf<typeof CONSOLIDATE_SOURCE_OPTIONS>;
export type ConsolidateSourceContext = VerbContext<WarningEvent>;

export interface ConsolidateSourceResult {
  readonly disks: readonly ConsolidatedDisk[];
  /** What a run that died had left going on in the domain, ended first. */
  readonly repairs: readonly RepairAction[];
  readonly dryRun: boolean;
}

/** @throws QmpBackupError `unsafe` where nothing was changed; `failed` */
export function consolidateSource(
  request: ConsolidateSourceRequest,
  given: Partial<ConsolidateSourceContext> = {},
): Promise<ConsolidateSourceResult> {
  return unwinding(async (unwind) => {
    const { adopt, dryRun, breakLock, ...named } = valuesOf(CONSOLIDATE_SOURCE_OPTIONS, request);
    const { signal, report } = contextOf(given);
    signal.throwIfAborted();
    const vm = requireVm(named);
    if (vm.kind !== 'domain') {
      throw new QmpBackupError('usage', 'consolidate-source is for libvirt domains', {
        hint: 'Backups by --socket put no overlay above a disk.',
      });
    }
    const { disks, repairs, warnings } = await consolidateDomain({ ...vm, adopt, dryRun, breakLock, signal }, unwind);
    for (const said of warnings) report({ kind: 'warning', ...said });
    return { disks, repairs, dryRun };
  });
}
