import { DEFINITION_FOLDER } from '../../core/names.js';
import type { DefinitionFile, Point } from '../../core/point.js';
import { type TargetFinding, targetFinding } from '../../core/target-finding.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { codeOf } from '../../host/file-errors.js';
import { readKept } from '../../repository/definition-files.js';
import { filesAmiss } from '../../repository/file-state.js';

/** The files beside the disks of a domain's points: small, so that each is read whole. */
export async function lookAtDefinitions(
  target: string,
  points: readonly Point[],
): Promise<{ readonly findings: readonly TargetFinding[]; readonly files: number }> {
  const kept = points.flatMap(({ definition }) => definition?.files ?? []);
  const amiss = await filesAmiss(
    target,
    kept.map(({ file, size }) => ({ disk: DEFINITION_FOLDER, file, size })),
  );
  const findings: TargetFinding[] = [];
  for (const each of kept) {
    const fault = amiss.get(`${DEFINITION_FOLDER}/${each.file}`) ?? (await whyAltered(target, each));
    if (fault) {
      const todo = 'Put back the file as it was backed up. The disks of the point do not need it.';
      findings.push(targetFinding({ level: 'error', subject: DEFINITION_FOLDER, file: each.file, ...fault, todo }));
    }
  }
  return { findings, files: kept.length };
}

type Fault = Pick<TargetFinding, 'code' | 'why'>;

async function whyAltered(target: string, file: DefinitionFile): Promise<Fault | undefined> {
  try {
    await readKept(target, file);
    return undefined;
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    if (codeOf(error.cause) !== undefined) return { code: 'unreadable', why: messageOf(error) };
    return { code: 'altered', why: 'its bytes are no longer those that were backed up' };
  }
}
