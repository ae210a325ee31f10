import { pointInTime } from '../core/asked-time.js';
import { type OptionRules, requiredWord, word, type ValuesOf, yesOrNo } from '../core/option-rules.js';
import type { PointRequest } from '../core/restore-plan.js';
import { whereNamesAre } from '../core/virsh-hint.js';
import { QmpBackupError } from '../errors.js';
import { type Endpoint, parseEndpoint } from '../qmp/endpoint.js';
import type { AskedVm } from './address.js';

/** Options that several verbs have, and which VM they name. */
export const VM_OPTIONS = {
  /** The VM's QMP monitor: the path of a unix socket, or `tcp:HOST:PORT`. */
  socket: word('--socket'),
  /** A libvirt domain instead, by name or UUID. */
  domain: word('--domain'),
  /** URI of the libvirt that is asked; without, as virsh. */
  connect: word('--connect'),
} satisfies OptionRules;

export const AGENT_OPTIONS = {
  /** Socket of the VM's guest agent. */
  agentSocket: word('--agent-socket'),
} satisfies OptionRules;

export const TARGET_OPTIONS = {
  /** Folder of the backups. */
  target: requiredWord('--target'),
} satisfies OptionRules;

/** Which point is read; without, the newest that is whole. */
export const POINT_OPTIONS = {
  /** See `pointNamed`. */
  point: word('--point'),
  /** The newest point that is not later. */
  at: pointInTime('--at'),
} satisfies OptionRules;

/** A point as it was asked for. */
export type AskedPoint = Pick<PointRequest, 'point' | 'at'>;

export function askedPoint({ point, at }: ValuesOf<typeof POINT_OPTIONS>): AskedPoint {
  return { point: point ?? undefined, at: at ?? undefined };
}

export const NAMED_VM_OPTIONS = {
  /** The target is in a folder of its own for each VM and month, `<target>/<vm name>/<YYYY-MM>`. */
  monthly: yesOrNo('--monthly'),
  /** What to call a VM that has no name. */
  vmName: word('--vm-name'),
} satisfies OptionRules;

export const LOCK_OPTIONS = {
  /** Takes a lock that another host holds. */
  breakLock: yesOrNo('--break-lock'),
} satisfies OptionRules;

type NamedVm = ValuesOf<typeof VM_OPTIONS>;
type Connections = { readonly [Key in keyof NamedVm | 'agentSocket']?: string | null | undefined };

/** @throws QmpBackupError `usage` for options that exclude each other, whatever the verb makes of them */
export function refuseContradiction({ socket, agentSocket, domain, connect }: Connections): void {
  if (domain === undefined || domain === null) return;
  if (domain.trim() === '') {
    throw new QmpBackupError('usage', '--domain names no domain', { hint: `${whereNamesAre(connect ?? null)}.` });
  }
  if (socket) {
    throw new QmpBackupError('usage', '--socket and --domain name a VM each', { hint: 'Give one of them.' });
  }
  if (agentSocket) {
    throw new QmpBackupError('usage', '--agent-socket does not go with --domain', {
      hint: 'Leave it out: libvirt holds the agent of its domains, and is asked to freeze and to thaw.',
    });
  }
}

/** The VM that `--socket` or `--domain` names; null where neither was given. */
export function vmOf(named: NamedVm & Partial<ValuesOf<typeof AGENT_OPTIONS>>): AskedVm | null {
  const { socket, domain, connect } = named;
  refuseContradiction(named);
  if (domain !== null) return { kind: 'domain', domain, connect };
  if (connect !== null) {
    throw new QmpBackupError('usage', '--connect chooses the libvirt of a domain, and none was given', {
      hint: 'Name the domain with --domain NAME, or leave --connect out.',
    });
  }
  return socket === null ? null : { kind: 'monitor', monitor: parseEndpoint(socket) };
}

export function requireVm(named: Parameters<typeof vmOf>[0]): AskedVm {
  const vm = vmOf(named);
  if (vm) return vm;
  throw new QmpBackupError('usage', 'no VM was given', {
    hint: 'Name its QMP monitor, --socket /run/vm.qmp or --socket tcp:HOST:PORT, or its libvirt domain, --domain NAME',
  });
}

export function agentOf({ agentSocket }: ValuesOf<typeof AGENT_OPTIONS>): Endpoint | null {
  return agentSocket === null ? null : parseEndpoint(agentSocket);
}
