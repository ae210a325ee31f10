import type { StepVerb } from '../../run/step.js';
import type { Log } from '../log.js';

/** What is under way of several VMs, on a terminal only. */
export interface RunProgress {
  /** `percent`: null is not known. */
  readonly show: (vm: string, verb: StepVerb, percent: number | null) => void;
  readonly gone: (vm: string) => void;
  readonly end: () => void;
}

export function createRunProgress(log: Log): RunProgress {
  const underWay = new Map<string, string>();
  const draw = (): void => {
    const line = [...underWay.values()].join(' | ');
    log.transient(line.slice(0, Math.max(20, (process.stderr.columns || 80) - 1)));
  };
  return {
    show: (vm, verb, percent) => {
      underWay.set(vm, `${vm}: ${verb}${percent === null ? '' : ` ${percent} %`}`);
      if (percent !== null) log.progress('percent', [{ name: `${vm}: ${verb}`, done: percent, total: 100 }]);
      draw();
    },
    gone: (vm) => {
      underWay.delete(vm);
    },
    end: () => log.transient(''),
  };
}
