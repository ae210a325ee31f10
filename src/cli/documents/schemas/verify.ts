import * as v from 'valibot';
import { count, document, identitySchema, listOf, object, oneOf, text, textOrNull, texts, warnings } from './parts.js';

const CODES = [
  ...['no-folder', 'missing', 'not-a-file', 'unreadable', 'other-size', 'no-image', 'other-link', 'other-disk-size'],
  ...['altered', 'damaged', 'corrupt', 'merged', 'merging', 'half-merged', 'gap', 'suspect'],
  ...['unsealed-run', 'unreadable-journal', 'no-catalog', 'bad-catalog', 'old-catalog', 'other-catalog', 'bad-memory'],
  'memory-not-kept',
  ...['leaked', 'no-piece-list', 'stray', 'partial', 'left-over', 'foreign', 'no-digest', 'no-boot', 'locked'],
] as const;

const finding = object(
  {
    level: oneOf(['error', 'warning', 'info'], 'error: damage, or what cannot be read; warning: harms no point; info'),
    subject: text('A disk id, `definition`, or `target`'),
    code: oneOf(CODES, 'What kind of finding; see docs/json.md'),
    file: textOrNull('The file that is meant, in the folder of `subject`, or in the target itself; or null'),
    what: text('What was found, in words'),
    todo: textOrNull('What to do about it, or null'),
  },
  'A finding',
);

const target = object(
  {
    target: text('Absolute path of the target'),
    vm: v.pipe(v.nullable(identitySchema), v.description('Which VM it is of; null where no catalog tells')),
    targetId: textOrNull('Id of the target; null where no catalog tells'),
    findings: listOf(finding, 'What was found, the worst first'),
    repaired: texts('What `--repair` has done, in words; the findings are those of after it'),
    points: count('Number of points that were looked at'),
    lost: texts('Points of these that cannot be restored as a whole, by name'),
    files: count('Number of files that were looked at'),
    booted: v.pipe(
      v.nullable(
        object(
          {
            point: text('The point, in words'),
            by: oneOf(['agent', 'serial', 'running'], 'What was to tell that it has booted'),
            afterMs: v.pipe(
              v.nullable(v.number()),
              v.description('Milliseconds from the command to the answer; null where there was none'),
            ),
            why: textOrNull('Why it has not booted, in words; null where it has'),
            evidence: texts('Absolute paths of what was kept: the picture of its screen, its serial log'),
          },
          'What came of `--boot`',
        ),
      ),
      v.description('What came of `--boot`; null where nothing was started'),
    ),
    read: object({ files: count('Number of files'), bytes: count('Their bytes') }, 'What was read to its end'),
  },
  'A target',
);

export const verifyDocumentSchema = document(
  'verify',
  { targets: listOf(target, 'The target, or each one in the folders below'), warnings: warnings() },
  'The answer of `qmpbackup verify`',
);

export type VerifyDocument = v.InferOutput<typeof verifyDocumentSchema>;
