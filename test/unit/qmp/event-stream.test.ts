import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { QmpConnectionLost, QmpInterrupted, QmpStateError } from '../../../src/qmp/errors.js';
import { type EventFeed, EventStream, type QmpEvent } from '../../../src/qmp/event-stream.js';

function makeStream() {
  const detach = vi.fn();
  let feed: EventFeed | undefined;
  const stream = new EventStream((given) => {
    feed = given;
    return detach;
  });
  return { stream, feed: feed!, detach };
}

function event(name: string): QmpEvent {
  return { event: name, data: {}, timestampMs: 0 };
}

const LOST = new QmpConnectionLost('/run/vm.sock', 'it was closed from the other side');

describe('EventStream', () => {
  test('keeps events until they are asked for', async () => {
    const { stream, feed } = makeStream();
    feed.deliver(event('A'));
    feed.deliver(event('B'));
    expect((await stream.next()).event).toBe('A');
    expect((await stream.next({ timeoutMs: 1 }))?.event).toBe('B');
  });

  test('gives what has come at once, and each event once', async () => {
    const { stream, feed } = makeStream();
    expect(stream.come()).toEqual([]);
    feed.deliver(event('A'));
    feed.deliver(event('B'));
    expect(stream.come().map(({ event }) => event)).toEqual(['A', 'B']);
    expect(stream.come()).toEqual([]);
    expect(await stream.next({ timeoutMs: 1 })).toBeUndefined();
  });

  test('serves those who wait in the order in which they asked', async () => {
    const { stream, feed } = makeStream();
    const waiting = [stream.next(), stream.next()];
    feed.deliver(event('A'));
    feed.deliver(event('B'));
    expect((await Promise.all(waiting)).map(({ event }) => event)).toEqual(['A', 'B']);
  });

  test('gives undefined when none came in time, and loses none for it', async () => {
    vi.useFakeTimers();
    try {
      const { stream, feed } = makeStream();
      const waiting = stream.next({ timeoutMs: 50 });
      vi.advanceTimersByTime(50);
      expect(await waiting).toBeUndefined();
      feed.deliver(event('A'));
      expect((await stream.next()).event).toBe('A');
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  test('leaves no timer behind when the event comes first', async () => {
    vi.useFakeTimers();
    try {
      const { stream, feed } = makeStream();
      const waiting = stream.next({ timeoutMs: 50_000 });
      feed.deliver(event('A'));
      await waiting;
      expect(vi.getTimerCount()).toBe(0);
    } finally {
      vi.useRealTimers();
    }
  });

  test('rejects when the signal aborts, before or while waiting', async () => {
    const { stream, feed } = makeStream();
    await expect(stream.next({ signal: AbortSignal.abort() })).rejects.toBeInstanceOf(QmpInterrupted);
    const controller = new AbortController();
    const waiting = stream.next({ signal: controller.signal });
    controller.abort(new Error('SIGINT'));
    await expect(waiting).rejects.toThrow('SIGINT');
    feed.deliver(event('A'));
    expect((await stream.next({ signal: controller.signal })).event).toBe('A');
  });

  test('delivers what was queued, then rejects every read, when the connection is lost', async () => {
    const { stream, feed } = makeStream();
    feed.deliver(event('A'));
    feed.fail(LOST);
    feed.deliver(event('too late'));
    expect((await stream.next()).event).toBe('A');
    await expect(stream.next()).rejects.toBe(LOST);
    await expect(stream.next({ timeoutMs: 1 })).rejects.toBe(LOST);
  });

  test('rejects all who wait when the connection is lost', async () => {
    const { stream, feed } = makeStream();
    const waiting = [stream.next(), stream.next({ timeoutMs: 60_000 })];
    feed.fail(LOST);
    for (const { status } of await Promise.allSettled(waiting)) expect(status).toBe('rejected');
  });

  test('a loss that nobody waits for is no unhandled rejection', async () => {
    const unhandled = vi.fn();
    process.on('unhandledRejection', unhandled);
    try {
      const { feed } = makeStream();
      feed.fail(LOST);
      await new Promise((resolve) => setImmediate(resolve));
      expect(unhandled).not.toHaveBeenCalled();
    } finally {
      process.off('unhandledRejection', unhandled);
    }
  });

  test('ends when closed: reads reject, the loop ends, the owner is told once', async () => {
    const { stream, feed, detach } = makeStream();
    const waiting = stream.next();
    const looped = (async () => {
      const seen: string[] = [];
      for await (const { event } of stream) seen.push(event);
      return seen;
    })();
    stream.close();
    stream.close();
    feed.deliver(event('A'));
    feed.fail(LOST);
    await expect(waiting).rejects.toBeInstanceOf(QmpStateError);
    await expect(stream.next()).rejects.toBeInstanceOf(QmpStateError);
    expect(await looped).toEqual([]);
    expect(detach).toHaveBeenCalledTimes(1);
  });

  test('a loop throws on loss, and leaving it closes the stream', async () => {
    const first = makeStream();
    first.feed.deliver(event('A'));
    first.feed.fail(LOST);
    const seen: string[] = [];
    await expect(
      (async () => {
        for await (const { event } of first.stream) seen.push(event);
      })(),
    ).rejects.toBe(LOST);
    expect(seen).toEqual(['A']);

    const second = makeStream();
    second.feed.deliver(event('A'));
    for await (const { event } of second.stream) {
      expect(event).toBe('A');
      break;
    }
    expect(second.detach).toHaveBeenCalledTimes(1);
  });

  test('loses, doubles and reorders nothing, however reads and events interleave', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.boolean(), { maxLength: 40 }), async (steps) => {
        const { stream, feed } = makeStream();
        const reads: Promise<QmpEvent>[] = [];
        let delivered = 0;
        for (const isRead of steps) {
          if (isRead) reads.push(stream.next());
          else feed.deliver(event(String(delivered++)));
        }
        while (reads.length < delivered) reads.push(stream.next());
        feed.fail(LOST);
        const results = await Promise.allSettled(reads);
        const events = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.event] : []));
        expect(events).toEqual(Array.from({ length: delivered }, (_, index) => String(index)));
        for (const result of results.slice(delivered)) expect(result.status).toBe('rejected');
      }),
    );
  });
});
