import { describe, expect, it } from 'vitest';
import { type Journal, journalValue, ownerText, readJournalValue } from '../../../src/core/journal.js';
import { journal } from '../../support/builders.js';

const UUID = '6c8d1c1e-3d0a-4f0e-9d0a-1f2e3d4c5b6a';

const OWNERS = [
  { text: '', owner: { kind: 'none' } },
  { text: '/run/q', owner: { kind: 'monitor', endpoint: '/run/q' } },
  { text: '127.0.0.1:4444', owner: { kind: 'monitor', endpoint: '127.0.0.1:4444' } },
  { text: `libvirt domain ${UUID}`, owner: { kind: 'domain', uuid: UUID } },
] as const;

const GUESTS = [
  { text: null, freezes: null },
  { text: '/run/qga', freezes: { kind: 'agent', endpoint: '/run/qga' } },
  { text: `libvirt:${UUID}`, freezes: { kind: 'domain', uuid: UUID } },
] as const;

describe('run.json', () => {
  it.each(OWNERS)('names the VM of a run as it always did: "$text"', ({ text, owner }) => {
    const written = journalValue(journal('a', [], { owner }));
    expect(written).toMatchObject({ monitor: text });
    expect(readJournalValue(written)?.owner).toEqual(owner);
    expect(ownerText(owner)).toBe(text);
  });

  it.each(GUESTS)('names whoever thaws the guest as it always did: $text', ({ text, freezes }) => {
    const written = journalValue(journal('a', [], { freezes }));
    expect(written).toMatchObject({ freezes: text });
    expect(readJournalValue(written)?.freezes).toEqual(freezes);
  });

  it('is read as it was written', () => {
    const whole: Journal = journal('a', [{ disk: 'vda', bitmap: 'b', job: 'j', file: 'FULL-1.qcow2' }], {
      scratch: ['/var/tmp/s'],
      starts: UUID,
    });
    expect(readJournalValue(JSON.parse(JSON.stringify(journalValue(whole))))).toEqual(whole);
  });

  it('is nothing else', () => {
    expect(readJournalValue({ schema: 1 })).toBeUndefined();
    expect(readJournalValue(null)).toBeUndefined();
  });
});
