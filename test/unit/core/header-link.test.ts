import { describe, expect, it } from 'vitest';
import { type LinkFault, linkFault } from '../../../src/core/header-link.js';

type Header = Parameters<typeof linkFault>[0];

const PLAIN: Header = { dataFile: false, externalDataFileName: null, backingFile: null, backingFormat: null };
const INC: Header = { ...PLAIN, backingFile: 'FULL-1', backingFormat: 'qcow2' };

describe('the files that a header names', () => {
  it.each<[string, Header, (string | null)[]]>([
    ['none, where none is expected', PLAIN, [null]],
    ['the parent', INC, ['FULL-1']],
    ['one of those that are in order', INC, ['INC-2', 'FULL-1']],
  ])('are in order: %s', (_, header, links) => {
    expect(linkFault(header, links)).toBeUndefined();
  });

  it.each<[string, Header, (string | null)[], LinkFault]>([
    ['a data file', { ...PLAIN, dataFile: true }, [null], { kind: 'data-file', name: null }],
    [
      'the name of a data file without its bit',
      { ...INC, externalDataFileName: '/etc/shadow' },
      ['FULL-1'],
      { kind: 'data-file', name: '/etc/shadow' },
    ],
    ['another parent', INC, ['FULL-2'], { kind: 'backing-file', name: 'FULL-1' }],
    ['a parent of a FULL', INC, [null], { kind: 'backing-file', name: 'FULL-1' }],
    ['no parent of an INC', PLAIN, ['FULL-1'], { kind: 'backing-file', name: null }],
    [
      'the same name elsewhere',
      { ...INC, backingFile: '../x/FULL-1' },
      ['FULL-1'],
      { kind: 'backing-file', name: '../x/FULL-1' },
    ],
    ['a parent as raw', { ...INC, backingFormat: 'raw' }, ['FULL-1'], { kind: 'format', name: 'raw' }],
    ['a parent to guess', { ...INC, backingFormat: null }, ['FULL-1'], { kind: 'format', name: null }],
  ])('are not in order: %s', (_, header, links, fault) => {
    expect(linkFault(header, links)).toEqual(fault);
  });

  it('of other tools may lead to the same name elsewhere, or leave the format to guess, and no more', () => {
    const loose = { loose: true };
    expect(linkFault({ ...INC, backingFile: '/old/FULL-1', backingFormat: null }, ['FULL-1'], loose)).toBeUndefined();
    expect(linkFault({ ...INC, backingFormat: 'raw' }, ['FULL-1'], loose)).toEqual({ kind: 'format', name: 'raw' });
    expect(linkFault({ ...PLAIN, dataFile: true }, [null], loose)).toEqual({ kind: 'data-file', name: null });
    expect(linkFault(INC, ['FULL-2'], loose)).toEqual({ kind: 'backing-file', name: 'FULL-1' });
  });
});
