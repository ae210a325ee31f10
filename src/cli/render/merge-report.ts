import type { ConsolidateEvent } from '../../operations/consolidate/consolidate.js';
import type { CommandContext } from '../wiring.js';
import { createPercent } from './progress.js';

/** Tells of points that are merged into later ones while it goes on. */
export function mergeReport({ log, warn }: Pick<CommandContext, 'log' | 'warn'>) {
  const percent = createPercent(log);
  return (event: ConsolidateEvent): void => {
    switch (event.kind) {
      case 'warning':
        return warn(event);
      case 'merging':
        return log.write('debug', `merging ${event.files.join(', ')} of ${event.disk} into ${event.into}`);
      case 'progress':
        return percent(`merging into ${event.into}`, event.percent);
    }
  };
}
