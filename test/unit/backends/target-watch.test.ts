import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { TargetWatch } from '../../../src/backends/target-watch.js';
import { MiB } from '../../support/builders.js';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const place = { path: '/t', what: 'the target /t', floor: 16 * MiB, tight: false };
const job = (current: number, status = 'running') => ({
  id: 'j',
  type: 'backup',
  status,
  current,
  total: 9,
  error: null,
});

/** A watch of a file system that answers `free()`, and hangs while that is undefined. */
function watching(free: () => number | undefined, more: { readonly speedLimit?: number } = {}): TargetWatch {
  const hung: (() => void)[] = [];
  const watch = new TargetWatch({
    stallMs: 10_000,
    speedLimit: 0,
    ask: () => {
      const now = free();
      return now === undefined
        ? new Promise((resolve) => hung.push(() => resolve({ free: 0 })))
        : Promise.resolve({ free: now });
    },
    ...more,
  });
  watch.watch(place);
  return watch;
}

function ending(signal: AbortSignal): string {
  return signal.aborted ? (signal.reason as Error).message : 'no';
}

describe('space', () => {
  it('that is there ends nothing, however long it lasts', async () => {
    const watch = watching(() => 17 * MiB);
    await vi.advanceTimersByTimeAsync(100_000);
    expect([ending(watch.signal), ending(watch.givenUp)]).toEqual(['no', 'no']);
  });

  it('below the floor ends the run at the next look, and the run may take its time for that', async () => {
    let free = 17 * MiB;
    const watch = watching(() => free);
    await vi.advanceTimersByTimeAsync(1_000);
    free = 15 * MiB;
    await vi.advanceTimersByTimeAsync(200);
    expect(ending(watch.signal)).toContain('the space on the target /t runs out: 15.0 MiB are left');
    await vi.advanceTimersByTimeAsync(100_000);
    expect(ending(watch.givenUp)).toBe('no');
  });

  it('that another look may find used up ends a tight run, too', async () => {
    let free = 200 * MiB;
    const watch = watching(() => free);
    watch.watch({ ...place, tight: true });
    await vi.advanceTimersByTimeAsync(1_000);
    free = 90 * MiB;
    await vi.advanceTimersByTimeAsync(200);
    expect(ending(watch.signal)).toContain('90.0 MiB are left');
  });

  it('is judged by the floor that was set last', async () => {
    const watch = watching(() => 17 * MiB);
    watch.watch({ ...place, floor: 18 * MiB });
    await vi.advanceTimersByTimeAsync(200);
    expect(watch.signal.aborted).toBe(true);
  });
});

describe('a place that does not answer', () => {
  it('ends the run, and the run is given up where it does not end', async () => {
    const watch = watching(() => undefined);
    await vi.advanceTimersByTimeAsync(9_000);
    expect(ending(watch.signal)).toBe('no');
    await vi.advanceTimersByTimeAsync(2_000);
    expect(ending(watch.signal)).toContain('hangs: its file system has not answered for 10 s');
    expect(ending(watch.givenUp)).toBe('no');
    const body = watch.whileAnswering(new Promise(() => undefined));
    const expected = expect(body).rejects.toThrow(/was given up/);
    await vi.advanceTimersByTimeAsync(6_000);
    await expected;
    await expect(watch.whileAnswering(Promise.resolve('in time'))).resolves.toBe('in time');
  });

  it('is given up sooner in a run that something else ends', async () => {
    const interrupt = new AbortController();
    const watch = watching(() => undefined);
    watch.endBy(interrupt.signal);
    await vi.advanceTimersByTimeAsync(5_000);
    interrupt.abort(new Error('interrupted'));
    await vi.advanceTimersByTimeAsync(11_000);
    expect(ending(watch.givenUp)).toContain('was given up');
    expect(watch.signal.aborted).toBe(false);
  });

  it('is not blamed for the time that this process itself was stopped', async () => {
    const watch = watching(() => undefined);
    await vi.advanceTimersByTimeAsync(1_000);
    const real = performance.now.bind(performance);
    vi.spyOn(performance, 'now').mockImplementation(() => real() + 3_600_000);
    await vi.advanceTimersByTimeAsync(5_000);
    expect(watch.signal.aborted).toBe(false);
    vi.restoreAllMocks();
  });
});

describe('jobs', () => {
  it('have to get on, each in its way', async () => {
    const watch = watching(() => 99 * MiB);
    for (let step = 0; step < 10; step += 1) {
      watch.sawJobs([job(step)]);
      await vi.advanceTimersByTimeAsync(9_000);
    }
    expect(ending(watch.signal)).toBe('no');
    for (let second = 0; second < 12; second += 1) {
      watch.sawJobs([job(9)]);
      await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(ending(watch.signal)).toContain('no job got on for 10 s');
  });

  it('get on as well where only their work grows', async () => {
    const watch = watching(() => 99 * MiB);
    for (let second = 0; second < 60; second += 1) {
      watch.sawJobs([{ ...job(1), work: Math.floor(second / 5) }]);
      await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(ending(watch.signal)).toBe('no');
  });

  it('that a limit slows down get on in the steps that it allows', async () => {
    const watch = watching(() => 99 * MiB, { speedLimit: MiB });
    watch.sawJobs([job(1)]);
    await vi.advanceTimersByTimeAsync(25_000);
    expect(ending(watch.signal)).toBe('no');
    await vi.advanceTimersByTimeAsync(3_000);
    expect(watch.signal.aborted).toBe(true);
  });

  it('that have ended need not get on any more', async () => {
    const watch = watching(() => 99 * MiB);
    watch.sawJobs([job(1)]);
    watch.jobsEnded();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(watch.signal.aborted).toBe(false);
  });
});
