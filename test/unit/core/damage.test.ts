import { describe, expect, it } from 'vitest';
import { damageInWords, damageOf, recordedFiles } from '../../../src/core/damage.js';
import { type FileFault, MISSING } from '../../../src/core/file-record.js';
import { catalog, entry, point } from '../../support/builders.js';

const definition = {
  files: [{ kind: 'domain' as const, file: 'DOMAIN-2.xml', path: null, size: 7, sha256: '0'.repeat(64) }],
  autostart: null,
  missing: [],
};
const full = entry('a', 'FULL-1.qcow2', { size: 5 });
const inc = entry('a', 'INC-2.qcow2', { parent: 'FULL-1.qcow2', level: 'inc', size: 6 });
const other = entry('b', 'FULL-2.qcow2', { size: 8 });
const chain = catalog([point(0, [full]), point(1, [inc, other], { definition })]);
const missing = (...files: readonly string[]): ReadonlyMap<string, FileFault> =>
  new Map(files.map((file) => [file, MISSING]));

describe('files that are gone', () => {
  it('are looked for wherever the catalog says that they are whole', () => {
    expect(recordedFiles(chain)).toEqual([
      { disk: 'a', file: 'FULL-1.qcow2', size: 5 },
      { disk: 'a', file: 'INC-2.qcow2', size: 6 },
      { disk: 'b', file: 'FULL-2.qcow2', size: 8 },
      { disk: 'definition', file: 'DOMAIN-2.xml', size: 7 },
    ]);
    const merging = catalog([point(0, [{ ...full, state: 'merging' }]), point(1, [{ ...inc, state: 'merged' }])]);
    expect(recordedFiles(merging)).toEqual([]);
  });

  it('cost every point whose line needs them, and no other', () => {
    const lost = (...files: readonly string[]): string[] =>
      [...damageOf(chain, missing(...files))].map(
        ([{ number }, found]) => `${number}: ${found.map(({ file }) => file).join()}`,
      );
    expect(lost()).toEqual([]);
    expect(lost('a/FULL-1.qcow2')).toEqual(['0: a/FULL-1.qcow2', '1: a/FULL-1.qcow2']);
    expect(lost('a/INC-2.qcow2')).toEqual(['1: a/INC-2.qcow2']);
    expect(lost('b/FULL-2.qcow2', 'definition/DOMAIN-2.xml')).toEqual(['1: b/FULL-2.qcow2,definition/DOMAIN-2.xml']);
  });

  it('are said once for each disk, with all that is lost', () => {
    const damage = damageOf(chain, missing('a/FULL-1.qcow2', 'a/INC-2.qcow2', 'definition/DOMAIN-2.xml'));
    expect(damageInWords(chain, damage)).toEqual([
      {
        code: 'files-damaged',
        text: 'a/FULL-1.qcow2: it is missing, a/INC-2.qcow2: it is missing. Lost with them is a of point 0, point 1',
      },
      {
        code: 'files-damaged',
        text: 'definition/DOMAIN-2.xml: it is missing. Lost with it is the definition of the domain in point 1',
      },
    ]);
  });
});
