import { virshCommand } from '../../core/virsh-hint.js';
import { QmpBackupError } from '../../errors.js';
import type { BootRecord } from './boot-record.js';
import type { DomainRecord } from './domain-record.js';
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
    ...(hasWords(args, more) ? [] : ['what is given after --']),
    ...(network === 'as-recorded' && isWithoutNetwork(args) ? ['--network as-recorded'] : []),
    ...(agent && !hasAgent ? ['--agent'] : []),
  ];
  if (unheard.length === 0) return;
  throw new QmpBackupError('usage', `the VM runs already, without ${unheard.join(' and ')} (pid ${owner.pid})`, {
    hint: 'Leave that out; or end the VM (its monitor: quit), and run this again: it starts from its overlays.',
  });
}

/**
 * The same of a domain that is defined, and so has its network cards.
 *
 * @param uri of its libvirt; null is virsh's own default
 * @throws QmpBackupError `usage`
 */
export function refuseUnlinked({ domain, unlinked }: DomainRecord, asked: Asked, uri: string | null): void {
  if (asked.network !== 'as-recorded' || unlinked !== true) return;
  throw new QmpBackupError('usage', `the domain ${domain.name} is defined already, without --network as-recorded`, {
    hint: `Leave that out, and put the links of its network cards up: ${virshCommand(uri, 'domif-setlink', domain.uuid)} MAC up (--config: from its next start on). Or, when it is off, have it defined anew with its overlays: ${virshCommand(uri, 'undefine', domain.uuid)}, and run this again.`,
  });
}

/** In that order, next to each other. */
function hasWords(args: readonly string[], words: readonly string[]): boolean {
  if (words.length === 0) return true;
  return args.some((_, start) => words.every((word, index) => word === args[start + index]));
}

function isWithoutNetwork(args: readonly string[]): boolean {
  return args.some((word, index) => word === '-nic' && args[index + 1] === 'none');
}
