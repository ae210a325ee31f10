import { QmpBackupError } from '../../errors.js';
import type { BootRecord } from './boot-record.js';
import type { BootOptions } from './options.js';

type Asked = Pick<BootOptions, 'arguments' | 'network' | 'agent'>;

/**
 * What only a start can give a VM is refused where it runs without it: nobody shall believe that it was heard.
 *
 * @throws QmpBackupError `usage`
 */
export function refuseUnheard({ args, hasAgent, owner }: BootRecord, asked: Asked): void {
  const { arguments: more, network, agent } = asked;
  const unheard = [
    ...(endsWith(args, more) ? [] : ['what is given after --']),
    ...(network === 'as-recorded' && isWithoutNetwork(args) ? ['--network as-recorded'] : []),
    ...(agent && !hasAgent ? ['--agent'] : []),
  ];
  if (unheard.length === 0) return;
  throw new QmpBackupError('usage', `the VM runs already, without ${unheard.join(' and ')} (pid ${owner.pid})`, {
    hint: 'Leave that out; or end the VM (its monitor: quit), and run this again: it starts from its overlays.',
  });
}

/** They come last on the command line. */
function endsWith(args: readonly string[], more: readonly string[]): boolean {
  return more.length === 0 || args.slice(-more.length).every((word, index) => word === more[index]);
}

function isWithoutNetwork(args: readonly string[]): boolean {
  return args.some((word, index) => word === '-nic' && args[index + 1] === 'none');
}
