import { describe, expect, it } from 'vitest';
import { chooseFleece, type FleeceQuestion } from '../../../src/core/fleece-choice.js';

const question: FleeceQuestion = {
  mode: 'auto',
  verify: false,
  network: false,
  speedLimit: 0,
  spaceIsShort: false,
  obstacle: null,
  jobBreaksItself: false,
};
const ask = (more: Partial<FleeceQuestion>) => chooseFleece({ ...question, ...more });

describe('auto', () => {
  it('goes without where the target is local, has space and is written at full speed', () => {
    expect(ask({})).toMatchObject({ fleece: false });
  });

  it.each([
    ['on a network file system', { network: true }],
    ['when space is short', { spaceIsShort: true }],
    ['with a speed limit', { speedLimit: 1024 }],
  ])('fleeces %s, and says so', (_name, more) => {
    expect(ask(more)).toMatchObject({ fleece: true });
    expect(ask(more).why).not.toBe('');
  });

  it('trusts a job that breaks itself, but not where the target can hang', () => {
    expect(ask({ jobBreaksItself: true, spaceIsShort: true, speedLimit: 1 })).toMatchObject({ fleece: false });
    expect(ask({ jobBreaksItself: true, network: true })).toMatchObject({ fleece: true });
  });

  it('goes without where fleecing is not possible, and says why', () => {
    const choice = ask({ network: true, obstacle: 'another job is running on vda' });
    expect(choice).toMatchObject({ fleece: false });
    expect(choice.why).toMatch(/network.*another job is running on vda/);
  });
});

describe('what was asked for', () => {
  it('is done or refused', () => {
    expect(ask({ mode: 'always' })).toMatchObject({ fleece: true });
    expect(ask({ mode: 'never', network: true })).toMatchObject({ fleece: false });
    expect(() => ask({ mode: 'always', obstacle: 'no' })).toThrow(/not possible here: no/);
  });

  it('--verify needs fleecing', () => {
    expect(ask({ verify: true })).toEqual({ fleece: true, why: '--verify' });
    expect(() => ask({ verify: true, obstacle: 'no' })).toThrow(/not possible here: no/);
    expect(() => ask({ verify: true, mode: 'never' })).toThrow(/does not keep/);
  });
});
