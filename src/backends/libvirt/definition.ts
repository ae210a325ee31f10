import { join } from 'node:path';
import type { Journal } from '../../core/journal.js';
import {
  DEFINITION_FOLDER,
  definitionFileName,
  type DefinitionKind,
  domainJobId,
  nextNumber,
} from '../../core/names.js';
import type { PointDefinition } from '../../core/point.js';
import { type Warn, warning } from '../../core/warning.js';
import { messageOf } from '../../errors.js';
import { parseDomain } from '../../libvirt/domain-xml.js';
import { dumpCheckpoint } from '../../libvirt/domain.js';
import { VirshError } from '../../libvirt/errors.js';
import { TPM_STATE } from '../../libvirt/tpm-state.js';
import {
  type DefinitionPiece,
  isPlainPath,
  keepPieces,
  listState,
  readUnchanged,
} from '../../repository/definition-files.js';
import type { Staging } from '../../repository/staging.js';
import { takenNames, type TargetState } from '../../repository/target.js';
import type { OfflineDefinition } from '../images/vm.js';
import type { BackupSession, DomainSession } from './session.js';

/**
 * What a domain is beside its disks, as a part of the point: its XML, UEFI variables, the state of its TPM, the XML of
 * the checkpoint and whether it starts with the host (decision 12). What cannot be read is said and does not fail the
 * backup; what cannot be written into the target does.
 */
export interface DefinitionPlan {
  readonly autostart: boolean | null;
  readonly pieces: readonly PlannedPiece[];
  readonly missing: readonly string[];
}

type PlannedPiece = Omit<DefinitionPiece, 'bytes'> & {
  /** Text that is known already, the file to read at the instant, or the checkpoint to ask libvirt for after it. */
  readonly from: { readonly text: string } | { readonly place: string } | { readonly checkpoint: string };
};

/** All that can be known before the instant. `checkpoint`: name of the one that the point will have. */
export async function planDefinition(
  session: BackupSession,
  target: Pick<TargetState, 'target' | 'catalog'>,
  { now, checkpoint }: { readonly now: Date; readonly checkpoint: string | null },
): Promise<DefinitionPlan> {
  const { uuid, domain, kept } = session;
  const missing: string[] = [];
  if (kept.noPasswords !== null) {
    missing.push(`the passwords in the definition of the domain, which libvirt does not tell: ${kept.noPasswords}`);
  }
  const taken = await takenNames(target, [DEFINITION_FOLDER]);
  const number = nextNumber(Math.floor(now.getTime() / 1000), taken.get(DEFINITION_FOLDER) ?? []);
  const piece = (
    kind: DefinitionKind,
    from: PlannedPiece['from'],
    path: string | null = null,
    index = 0,
  ): PlannedPiece => ({
    ...{ kind, path, from },
    file: definitionFileName(kind, number, index),
  });
  const defined = parseDomain(kept.xml);
  const nvram = domain.nvram ?? defined.nvram;
  const state = defined.tpm === 'none' ? domain.tpm : defined.tpm;
  const tpm = await tpmFiles(uuid, state, missing);
  return {
    autostart: kept.autostart,
    missing,
    pieces: [
      piece('domain', { text: kept.xml }),
      ...(domain.active ? [piece('live', { text: domain.xml })] : []),
      ...(checkpoint === null ? [] : [piece('checkpoint', { checkpoint })]),
      ...(nvram === null ? [] : [piece('nvram', { place: nvram })]),
      ...tpm.map((path, index) => piece('tpm', { place: join(TPM_STATE, uuid, path) }, path, index)),
    ],
  };
}

async function tpmFiles(
  uuid: string,
  state: 'none' | 'default' | 'elsewhere',
  missing: string[],
): Promise<readonly string[]> {
  if (state === 'none') return [];
  if (state === 'elsewhere') {
    missing.push('the state of its TPM, which has a place of its own');
    return [];
  }
  try {
    const files = await listState(join(TPM_STATE, uuid));
    if (files.length > 0 && files.every(isPlainPath)) return files;
    missing.push(`the state of its TPM: ${join(TPM_STATE, uuid)} holds ${files.length === 0 ? 'none' : 'odd names'}`);
  } catch (error) {
    missing.push(`the state of its TPM: ${messageOf(error)}`);
  }
  return [];
}

/** For the journal, so that what a dead run leaves of them is taken away like its images. */
export function journalled({ pieces }: DefinitionPlan, attempt: string): Journal['disks'] {
  return pieces.map(({ file }) => ({ disk: DEFINITION_FOLDER, bitmap: null, job: domainJobId(attempt), file }));
}

export interface TakenDefinition {
  readonly autostart: boolean | null;
  readonly pieces: readonly TakenPiece[];
  readonly missing: readonly string[];
}

type TakenPiece = Omit<DefinitionPiece, 'bytes'> & {
  readonly from: { readonly bytes: Buffer } | { readonly checkpoint: string };
};

/** Right after the instant: what changes with the guest. */
export async function takeDefinition(plan: DefinitionPlan): Promise<TakenDefinition> {
  const missing = [...plan.missing];
  const read = async (kind: DefinitionKind, place: string): Promise<Buffer | null> => {
    try {
      return await readUnchanged(place);
    } catch (error) {
      missing.push(`${kind === 'nvram' ? 'its UEFI variables' : 'the state of its TPM'}: ${messageOf(error)}`);
      return null;
    }
  };
  const taken = await Promise.all(
    plan.pieces.map(async ({ from, ...piece }): Promise<TakenPiece | null> => {
      if ('checkpoint' in from) return { ...piece, from };
      const bytes = 'text' in from ? Buffer.from(from.text) : await read(piece.kind, from.place);
      return bytes && { ...piece, from: { bytes } };
    }),
  );
  return { autostart: plan.autostart, missing, pieces: taken.filter((each) => each !== null) };
}

/**
 * Into the target, under their names; until the catalog names them they are no part of any point. Warns of what is
 * missing.
 */
export async function sealDefinition(
  { virsh, uuid }: DomainSession,
  staging: Staging,
  { autostart, pieces, missing: before }: TakenDefinition,
  warn: Warn,
): Promise<PointDefinition> {
  const missing = [...before];
  const asked = async (checkpoint: string): Promise<Buffer | null> => {
    try {
      return Buffer.from(await dumpCheckpoint(virsh, uuid, checkpoint));
    } catch (error) {
      if (!(error instanceof VirshError)) throw error;
      missing.push(`the XML of its checkpoint: ${error.words}`);
      return null;
    }
  };
  const whole = await Promise.all(
    pieces.map(async ({ from, ...piece }): Promise<DefinitionPiece | null> => {
      const bytes = 'bytes' in from ? from.bytes : await asked(from.checkpoint);
      return bytes && { ...piece, bytes };
    }),
  );
  for (const what of missing) warn(warning('definition-incomplete', `the point does not have ${what}`));
  const files = await keepPieces(
    staging,
    whole.filter((each) => each !== null),
  );
  return { files: [...files], autostart, missing };
}

/** The definition of a domain that is off: no checkpoint belongs to it. */
export function definitionOf(session: BackupSession): OfflineDefinition {
  return {
    plan: async (target, now) => {
      const plan = await planDefinition(session, target, { now, checkpoint: null });
      return {
        journalled: (attempt) => journalled(plan, attempt),
        take: async () => {
          const taken = await takeDefinition(plan);
          return (staging, warn) => sealDefinition(session, staging, taken, warn);
        },
      };
    },
  };
}
