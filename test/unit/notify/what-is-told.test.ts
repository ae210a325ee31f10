import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { NotifyRules } from '../../../src/config/notifiers.js';
import {
  NOTHING_REMEMBERED,
  type Remembered,
  type Standing,
  type Telling,
  whatIsTold,
} from '../../../src/notify/what-is-told.js';

const HOUR = 3_600_000;
const BEGIN = new Date(2026, 10, 30, 7, 0, 0);

function at(hours: number): Date {
  return new Date(BEGIN.getTime() + hours * HOUR);
}

function rules(given: Partial<NotifyRules> = {}): NotifyRules {
  return { on: ['failure', 'recovery'], remindDays: null, digestAt: 8 * 60, ...given };
}

/** VMs that fail and that are well, at some hour. */
function standing(hours: number, failing: readonly string[], sound: readonly (string | null)[] = []): Standing {
  return { troubles: failing.map((vm) => ({ vm, since: at(hours).toISOString(), why: `at ${hours}` })), sound };
}

/** Runs one after the other; `delivered`: whether the message of that run arrived. */
function runs(
  given: NotifyRules,
  steps: readonly { hours: number; failing?: string[]; sound?: (string | null)[]; delivered?: boolean }[],
): readonly Telling[] {
  let known: Remembered = NOTHING_REMEMBERED;
  return steps.map(({ hours, failing = [], sound = [], delivered = true }) => {
    const telling = whatIsTold(given, known, standing(hours, failing, sound), at(hours));
    known = delivered || telling.occasions.length === 0 ? telling.ifTold : telling.ifNot;
    return telling;
  });
}

function names(events: readonly { readonly vm: string | null }[]): readonly (string | null)[] {
  return events.map(({ vm }) => vm);
}

describe('what a notifier is told', () => {
  it('is a failure once, whatever the reason becomes, and its recovery once', () => {
    const told = runs(rules(), [
      { hours: 0, failing: ['a', 'b'] },
      { hours: 1, failing: ['a', 'b'] },
      { hours: 2, failing: ['b'], sound: ['a'] },
      { hours: 3, failing: ['a', 'b'] },
      { hours: 4, sound: ['a', 'b'] },
      { hours: 5, sound: ['a', 'b'] },
    ]);
    expect(told.map(({ occasions }) => occasions)).toEqual([
      ['failure'],
      [],
      ['recovery'],
      ['failure'],
      ['recovery'],
      [],
    ]);
    expect(names(told[0]!.failures)).toEqual(['a', 'b']);
    expect(names(told[2]!.recoveries)).toEqual(['a']);
    expect(names(told[3]!.failures)).toEqual(['a']);
    expect(names(told[4]!.recoveries)).toEqual(['a', 'b']);
  });

  it('is no recovery where a VM was only left out', () => {
    const told = runs(rules(), [{ hours: 0, failing: ['a'] }, { hours: 1 }, { hours: 2, failing: ['a'] }]);
    expect(told.map(({ occasions }) => occasions)).toEqual([['failure'], [], []]);
  });

  it('is told later where it could not be delivered, also as what is over by then', () => {
    const told = runs(rules(), [
      { hours: 0, failing: ['a', 'b'], delivered: false },
      { hours: 1, failing: ['a', 'c'], sound: ['b'], delivered: false },
      { hours: 2, failing: ['a', 'c'], sound: ['b'] },
      { hours: 3, failing: ['a', 'c'], sound: ['b'] },
    ]);
    expect(names(told[2]!.failures)).toEqual(['a', 'c']);
    expect(told[2]!.failures[0]).toMatchObject({ since: at(0).toISOString(), why: 'at 2' });
    expect(told[2]!.recoveries).toMatchObject([{ vm: 'b', toldAt: null }]);
    expect(told[3]!.occasions).toEqual([]);
    // Who is told of failures alone hears of one that is over only where it was not told before.
    const failures = runs(rules({ on: ['failure'] }), [
      { hours: 0, failing: ['a'], delivered: false },
      { hours: 1, failing: ['b'], sound: ['a'] },
      { hours: 2, sound: ['a', 'b'] },
    ]);
    expect(failures.map(({ recoveries }) => names(recoveries))).toEqual([[], ['a'], []]);
    expect(failures[2]!.occasions).toEqual([]);
  });

  it('is a reminder after the time that was asked for', () => {
    const failing = ['a'];
    const told = runs(
      rules({ remindDays: 1 }),
      [0, 12, 24, 36, 48].map((hours) => ({ hours, failing })),
    );
    expect(told.map(({ occasions }) => occasions)).toEqual([['failure'], [], ['reminder'], [], ['reminder']]);
    const never = runs(
      rules(),
      [0, 24, 4_800].map((hours) => ({ hours, failing })),
    );
    expect(never.map(({ occasions }) => occasions)).toEqual([['failure'], [], []]);
  });

  it('is a recovery alone for who asked for that', () => {
    const told = runs(rules({ on: ['recovery'] }), [
      { hours: 0, failing: ['a'] },
      { hours: 1, sound: ['a'] },
    ]);
    expect(told.map(({ occasions }) => occasions)).toEqual([[], ['recovery']]);
  });

  it('is a digest by the first run after its time of the day, with what has happened since', () => {
    const told = runs(rules({ on: ['digest'] }), [
      { hours: 0, failing: ['a'] },
      { hours: 0.5, sound: ['a'] },
      { hours: 1.5, failing: ['b'], delivered: false },
      { hours: 2, failing: ['b'] },
      { hours: 20, failing: ['b'] },
      { hours: 25.5, sound: ['b'] },
    ]);
    expect(told.map(({ occasions }) => occasions)).toEqual([['digest'], [], ['digest'], ['digest'], [], ['digest']]);
    const news = told.map((each) => each.news.map(({ kind, vm }) => `${vm} ${kind}`));
    expect(news).toEqual([
      ['a failed'],
      [],
      ['a recovered', 'b failed'],
      ['a recovered', 'b failed'],
      [],
      ['b recovered'],
    ]);
  });

  it('is everything, always, for who asked for that', () => {
    const told = runs(rules({ on: ['always'] }), [{ hours: 0 }, { hours: 1, failing: ['a'] }]);
    expect(told.map(({ occasions }) => occasions)).toEqual([['always'], ['always']]);
  });

  it('is never the same event twice, and none is left out, whatever arrives', () => {
    const step = fc.record({ failing: fc.boolean(), leftOut: fc.boolean(), delivered: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const told = runs(
          rules(),
          steps.map(({ failing, leftOut, delivered }, hours) => ({
            ...{ hours, delivered },
            failing: failing && !leftOut ? ['a'] : [],
            sound: failing || leftOut ? [] : ['a'],
          })),
        );
        // What arrived is failure and recovery in turn; a recovery alone tells of both.
        let isToldFailing = false;
        told.forEach(({ failures, recoveries }, index) => {
          if (!steps[index]!.delivered) return;
          if (failures.length > 0) expect(isToldFailing).toBe(false);
          for (const { toldAt } of recoveries) expect(toldAt !== null).toBe(isToldFailing);
          if (failures.length > 0) isToldFailing = true;
          if (recoveries.length > 0) isToldFailing = false;
        });
        // Whoever gets the last message knows how things are.
        const last = steps.findLastIndex(({ leftOut }) => !leftOut);
        if (last >= 0 && steps.slice(last).some(({ delivered }) => delivered)) {
          const after = steps.slice(last).findIndex(({ delivered }) => delivered) + last;
          if (after === last) expect(isToldFailing || !steps[last]!.failing).toBe(true);
        }
      }),
    );
  });
});
