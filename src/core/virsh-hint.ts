import { asShellWord } from './shell-word.js';

/** Which libvirt: the URI that `--connect` was given; null is virsh's own default. */
export type Connect = string | null;

/** A command of virsh for a person to type, which reaches the libvirt that was meant. */
export function virshCommand(connect: Connect, ...words: readonly string[]): string {
  return ['virsh', ...(connect === null ? [] : ['--connect', connect]), ...words].map(asShellWord).join(' ');
}
