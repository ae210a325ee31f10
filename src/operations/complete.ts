import { resolve } from 'node:path';
import { displayName } from '../core/identity.js';
import { listDomains } from '../libvirt/domain.js';
import { createVirsh } from '../libvirt/virsh.js';
import { readTargets } from '../repository/histories.js';
import { vmFolder } from '../repository/vm-folder.js';

/** What can stand for a value in a command line that is being typed, as far as only a target or a libvirt knows. */
export type AskedKind = 'points' | 'disks' | 'vms' | 'domains';

export interface PossibleWord {
  readonly word: string;
  /** What a shell may show beside it; may be empty. */
  readonly about: string;
}

export interface TypedSoFar {
  readonly target: string | null;
  readonly vmName: string | null;
  readonly connect: string | null;
}

/** Of what does not answer in this time, in milliseconds, there is nothing: somebody waits for the keyboard. */
export const COMPLETION_MS = 2_000;

/**
 * Newest first; none where no target was typed yet.
 *
 * @throws QmpBackupError `no-catalog`, and what virsh says
 */
export async function possibleWords(kind: AskedKind, typed: TypedSoFar): Promise<readonly PossibleWord[]> {
  if (kind === 'domains') {
    const domains = await listDomains(createVirsh(typed.connect ?? undefined, COMPLETION_MS));
    return domains.map(({ name, uuid }) => ({ word: name, about: uuid }));
  }
  if (typed.target === null) return [];
  const root = resolve(typed.target);
  const { targets } = await readTargets(typed.vmName === null ? root : await vmFolder(root, typed.vmName));
  const points = targets.flatMap(({ catalog }) => catalog.points).toReversed();
  switch (kind) {
    case 'vms':
      return unique(targets.map(({ catalog: { vm } }) => ({ word: displayName(vm) ?? '', about: vm.uuid ?? '' })));
    case 'disks':
      return unique(
        points.flatMap(({ disks }) => disks.map(({ disk, source }) => ({ word: disk, about: source.file }))),
      );
    case 'points': {
      const newest = points.find(({ chain }) => chain !== null)?.chain;
      return points.map(({ id, chain, number, createdAt, level, note }) => ({
        word: chain === null ? id : chain === newest ? `${number}` : `${chain}:${number}`,
        about: [createdAt, level.toUpperCase(), ...(note === undefined ? [] : [note])].join(' '),
      }));
    }
  }
}

function unique(words: readonly PossibleWord[]): readonly PossibleWord[] {
  return words.filter(({ word }, at) => word !== '' && words.findIndex((each) => each.word === word) === at);
}
