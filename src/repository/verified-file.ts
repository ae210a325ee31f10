import type { BootProof } from '../core/boot-proof.js';
import type { Catalog } from '../core/catalog.js';
import {
  readVerifiedValue,
  VERIFIED_SCHEMA,
  type Verified,
  type VerifiedFile,
  knownOf,
  proofsOf,
} from '../core/verified.js';
import { type Warning, warning } from '../core/warning.js';
import { QmpBackupError } from '../errors.js';
import { replaceFile } from '../host/durable.js';
import { ownerFor } from '../host/ownership.js';
import { readJsonFile } from '../host/plain-file.js';
import { verifiedPath } from './layout.js';

/** `verified.json` on disk: what `verify` has found before. Whoever cannot read it goes on as if nothing had been. */

/** Bytes. */
const LIMIT = 64 * 1024 * 1024;

const HINT = 'Without it, it is not known what was read before and found damaged: qmpbackup verify --read-data';

export interface VerifyMemory {
  /** Of files of the catalog, by `<disk>/<file>`. */
  readonly known: ReadonlyMap<string, VerifiedFile>;
  /** How points of the catalog have booted. */
  readonly boots: readonly BootProof[];
  /** Why nothing is known although there is a file. */
  readonly warnings: readonly Warning[];
}

/** What is remembered of the files that `catalog` names. */
export async function readMemory(target: string, catalog: Pick<Catalog, 'targetId' | 'points'>): Promise<VerifyMemory> {
  try {
    const memory = await readVerified(target, catalog.targetId);
    return { known: knownOf(catalog, memory), boots: proofsOf(catalog, memory), warnings: [] };
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { known: new Map(), boots: [], warnings: [warning('memory-lost', `${error.message}. ${HINT}`)] };
  }
}

async function readVerified(target: string, targetId: string): Promise<Verified | undefined> {
  const path = verifiedPath(target);
  const value = await readJsonFile(path, LIMIT, HINT);
  if (value === undefined) return undefined;
  const memory = readVerifiedValue(value);
  if (!memory) throw new QmpBackupError('unsafe', `${path} is damaged, or of another version`);
  if (memory.targetId !== targetId) throw new QmpBackupError('unsafe', `${path} belongs to another target`);
  return memory;
}

/** Replaces it, durably. For who holds the target's lock. */
export async function writeMemory(
  target: string,
  { targetId, points }: Pick<Catalog, 'targetId' | 'points'>,
  files: Iterable<VerifiedFile>,
  booted?: BootProof,
): Promise<void> {
  const lines = [...files].map((each) => JSON.stringify(each)).join(',\n');
  const before = await readVerified(target, targetId).catch((error: unknown) => ifUnusable(error));
  const boots = proofsOf({ points }, before, booted).map((each) => JSON.stringify(each));
  const text = `{"schema":${VERIFIED_SCHEMA},"targetId":${JSON.stringify(targetId)},"files":[\n${lines}\n],"boots":[\n${boots.join(',\n')}\n]}\n`;
  await replaceFile(verifiedPath(target), text, { mode: 0o600, owner: await ownerFor(target) });
}

/** How a point has booted, beside what is known already. For who holds the target's lock. */
export async function rememberBoot(
  target: string,
  catalog: Pick<Catalog, 'targetId' | 'points'>,
  proof: BootProof,
): Promise<void> {
  const { known } = await readMemory(target, catalog);
  await writeMemory(target, catalog, known.values(), proof);
}

/** It is begun anew, which whoever has read it before has told. */
function ifUnusable(error: unknown): undefined {
  if (!(error instanceof QmpBackupError)) throw error;
  return undefined;
}
