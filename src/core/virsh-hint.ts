import { asShellWord } from './shell-word.js';

/** Which libvirt: the URI that `--connect` was given; null is virsh's own default. */
export type Connect = string | null;

/** A command of virsh for a person to type, which reaches the libvirt that was meant. */
export function virshCommand(connect: Connect, ...words: readonly string[]): string {
  return ['virsh', ...asOption(connect), ...words].map(asShellWord).join(' ');
}

/** One of ours, for a domain of that libvirt. */
export function domainCommand(connect: Connect, domain: string, ...words: readonly string[]): string {
  return ['qmpbackup', ...asOption(connect), '--domain', domain, ...words].map(asShellWord).join(' ');
}

/** What tells a person how the domains are called. */
export function whereNamesAre(connect: Connect): string {
  return `${virshCommand(connect, 'list', '--all')} shows the names`;
}

function asOption(connect: Connect): readonly string[] {
  return connect === null ? [] : ['--connect', connect];
}
