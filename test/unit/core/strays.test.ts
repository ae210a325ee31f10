import { describe, expect, it } from 'vitest';
import { accountsOf, isBackupFile, isStrayFolder, kindOf, strayFolderName } from '../../../src/core/strays.js';
import { catalog, entry, journal, point } from '../../support/builders.js';

const full = entry('d1', 'FULL-1.qcow2');
const merged = entry('d1', 'INC-2.qcow2', { state: 'merged', parent: full.file });
const dead = journal('deadbeef0000', [{ disk: 'd1', bitmap: null, job: 'j', file: 'INC-4.qcow2' }]);
const accounts = accountsOf(catalog([point(0, [full]), point(1, [merged])]), dead);

describe('a file in the folder of a disk', () => {
  it.each([
    ['FULL-1.qcow2', null],
    ['FULL-1.qcow2.pieces', null],
    ['FULL-1.qcow2.partial', 'partial'],
    ['FULL-1.qcow2.pieces.tmp', 'partial'],
    ['INC-2.qcow2', 'retired'],
    ['INC-2.qcow2.pieces', 'retired'],
    ['INC-3.qcow2', 'stray'],
    ['INC-3.qcow2.pieces', 'stray'],
    ['INC-3.qcow2.partial', 'partial'],
    ['INC-4.qcow2', 'unsealed'],
    ['INC-4.qcow2.partial', 'unsealed'],
    ['INC-4.qcow2.pieces.partial', 'unsealed'],
    ['INC-2.qcow2.bak', 'foreign'],
    ['FULL-1480542683-disk.qcow2', 'foreign'],
    ['FULL-1480542683', 'foreign'],
    ['notes.txt', 'foreign'],
  ])('%s is %s', (file, kind) => {
    expect(kindOf('d1', file, accounts)).toBe(kind);
  });

  it('of the definition is known by its name there alone', () => {
    expect(kindOf('definition', 'DOMAIN-5.xml', accounts)).toBe('stray');
    expect(kindOf('definition', 'DOMAIN-5.xml.partial', accounts)).toBe('partial');
    expect(kindOf('d1', 'DOMAIN-5.xml', accounts)).toBe('foreign');
  });
});

it('tells files of ours from those of the Python tools', () => {
  expect(['FULL-1.qcow2', 'INC-1.qcow2.partial', 'COPY-1.qcow2.pieces'].every(isBackupFile)).toBe(true);
  expect(['FULL-1', 'FULL-1-d.qcow2', 'x', 'catalog.json'].some(isBackupFile)).toBe(false);
});

it('knows the folders of what was taken away', () => {
  const name = strayFolderName('2026-11-29T16:12:00.123Z');
  expect(name).toBe('stray-20261129T161200Z');
  expect([name, 'stray', 'disk1'].map(isStrayFolder)).toEqual([true, false, false]);
});
