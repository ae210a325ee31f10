import { describe, expect, it } from 'vitest';
import { pull, type PullSink } from '../../../src/nbd/pull.js';

const MiB = 1024 * 1024;

const nothing = { read: () => Promise.resolve() };
const data = (length: number) => [{ kind: 'data' as const, offset: 0, length }];

/** A sink that notes what it is told. */
function noting(): PullSink & { readonly calls: string[] } {
  const calls: string[] = [];
  const note = (call: string) => (): Promise<void> => {
    calls.push(call);
    return Promise.resolve();
  };
  return { calls, write: note('write'), zero: note('zero'), flush: note('flush') };
}

describe('a pull', () => {
  it('flushes once, at its end', async () => {
    const sink = noting();
    await pull(nothing, [...data(3 * MiB), { kind: 'zero', offset: 3 * MiB, length: MiB }], sink, { inFlight: 1 });
    expect(sink.calls).toEqual(['write', 'write', 'write', 'zero', 'flush']);
  });

  it('flushes after so many bytes, and takes nothing more until that is done', async () => {
    const calls: string[] = [];
    let flushing = false;
    const sink: PullSink = {
      write: () => {
        calls.push(flushing ? 'write while flushing' : 'write');
        return Promise.resolve();
      },
      zero: () => Promise.resolve(),
      flush: async () => {
        flushing = true;
        calls.push('flush');
        await new Promise((resolve) => setImmediate(resolve));
        flushing = false;
      },
    };
    await pull(nothing, data(16 * MiB), sink, { inFlight: 2, flushEvery: 4 * MiB });
    expect(calls.filter((call) => call !== 'flush')).toHaveLength(16);
    const flushes = calls.flatMap((call, index) => (call === 'flush' ? [index] : []));
    expect(flushes.length).toBeGreaterThanOrEqual(4);
    // What was under way when the limit was reached comes on top of it.
    flushes.reduce((last, index) => {
      expect(index - last).toBeLessThanOrEqual(4 + 2);
      return index;
    }, -1);
  });

  it('fails with its flush', async () => {
    const sink = { ...noting(), flush: () => Promise.reject(new Error('no space')) };
    await expect(pull(nothing, data(8 * MiB), sink, { flushEvery: MiB })).rejects.toThrow('no space');
  });
});
