import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { Dialogue } from '../../../src/guest-agent/dialogue.js';
import { GuestAgentError } from '../../../src/guest-agent/errors.js';

const MARK = Buffer.of(0xff);

/** A dialogue whose outcomes are written down in order. */
class Recorded {
  readonly dialogue = new Dialogue();
  readonly log: string[] = [];

  sync(id: number): Buffer {
    return this.dialogue.sync(id, {
      onReturn: () => this.log.push(`sync ${id}`),
      onError: (error) => this.log.push(`sync ${id}: ${error.kind}`),
    });
  }

  ask(command: string, read: (value: unknown) => unknown = (value) => value): Buffer {
    return this.dialogue.request({
      command,
      onReturn: (value) => this.log.push(`${command} = ${JSON.stringify(read(value))}`),
      onError: (error) => this.log.push(`${command}: ${error.kind}: ${error.message}`),
    });
  }

  hear(...parts: readonly (string | Buffer)[]): void {
    this.dialogue.push(Buffer.concat(parts.map((part) => Buffer.from(part))));
  }

  /** In step, with an empty log. */
  static synced(): Recorded {
    const recorded = new Recorded();
    recorded.sync(1);
    recorded.hear(MARK, '{"return":1}\n');
    recorded.log.length = 0;
    return recorded;
  }
}

let peer: Recorded;
beforeEach(() => {
  peer = Recorded.synced();
});

describe('sync', () => {
  test('begins with 0xFF and carries its number', () => {
    const bytes = new Recorded().sync(42);
    expect(bytes[0]).toBe(0xff);
    expect(JSON.parse(bytes.subarray(1).toString())).toEqual({
      execute: 'guest-sync-delimited',
      arguments: { id: 42 },
    });
  });

  test.each([
    ['nothing', ''],
    ['the complaint about our 0xFF', '{"error":{"class":"GenericError","desc":"JSON parse error, stray"}}\n'],
    ['the answer to somebody else', '{"return":{"pid":7}}\n'],
    ['half a line', '{"return": "froz'],
    ['no JSON at all', 'login: \n\0\0\n'],
    ['a number of an earlier sync', '\u00ff{"return":6}\n'],
    ['our number without the mark', '{"return":7}\n'],
  ])('is found behind %s', (_, before) => {
    const fresh = new Recorded();
    fresh.sync(7);
    fresh.hear(Buffer.from(before, 'latin1'));
    expect(fresh.log).toEqual([]);
    expect(fresh.dialogue.inStep).toBe(false);
    fresh.hear(MARK, '{"return": 7}\n');
    expect(fresh.log).toEqual(['sync 7']);
    expect(fresh.dialogue.inStep).toBe(true);
  });

  test('a QMP monitor is recognised by its greeting', () => {
    const fresh = new Recorded();
    fresh.dialogue.sync(1, { onReturn: () => undefined, onError: (error) => fresh.log.push(error.message) });
    fresh.hear('{"QMP": {"version": {}}}\n');
    expect(fresh.log).toEqual(['this is a QMP monitor, not a guest agent']);
  });

  test('requests may stand right behind it', () => {
    const fresh = new Recorded();
    fresh.sync(7);
    fresh.ask('guest-fsfreeze-thaw');
    fresh.hear('{"return":99}\n', MARK, '{"return":7}\n{"return":2}\n');
    expect(fresh.log).toEqual(['sync 7', 'guest-fsfreeze-thaw = 2']);
  });
});

describe('answers', () => {
  test('belong to requests in order', () => {
    peer.ask('a');
    peer.ask('b');
    peer.hear('{"return":1}\n{"return":2}\n');
    expect(peer.log).toEqual(['a = 1', 'b = 2']);
    expect(peer.dialogue.inStep).toBe(true);
  });

  test('an error is said in the words of the agent and keeps the step', () => {
    peer.ask('guest-fsfreeze-freeze');
    peer.hear('{"error":{"class":"GenericError","desc":"failed to freeze /mnt: I/O error"}}\n');
    expect(peer.log).toEqual([
      "guest-fsfreeze-freeze: refused: the guest agent refused 'guest-fsfreeze-freeze': failed to freeze /mnt: I/O error",
    ]);
    expect(peer.dialogue.inStep).toBe(true);
  });

  test.each(['\n{]\n', '[]\n', '{"x":1}\n', '"frozen"\n'])(
    'garbage ends all open requests and the step: %j',
    (bytes) => {
      peer.ask('a');
      peer.ask('b');
      peer.hear(bytes);
      expect(peer.log.map((line) => line.slice(0, 10))).toEqual(['a: garbage', 'b: garbage']);
      expect(peer.dialogue.inStep).toBe(false);
    },
  );

  test('a value that the reader refuses is garbage', () => {
    peer.ask('a', () => {
      throw new Error('no number');
    });
    peer.hear('{"return":"x"}\n');
    expect(peer.log).toEqual(["a: garbage: the guest agent's answer makes no sense: no number"]);
    expect(peer.dialogue.inStep).toBe(false);
  });

  test('one more than asked for ends the step', () => {
    peer.ask('a');
    peer.hear('{"return":1}\n{"return":1}\n');
    expect(peer.log).toEqual(['a = 1']);
    expect(peer.dialogue.inStep).toBe(false);
  });

  test('a message without end is garbage', () => {
    peer.ask('a');
    for (let megabyte = 0; megabyte < 5; megabyte++) peer.hear(Buffer.alloc(1024 * 1024, 'x'));
    expect(peer.log[0]).toMatch(/^a: garbage: .*longer than/);
  });
});

describe('given up', () => {
  const late = new GuestAgentError('timeout', 'too late');

  test('an answer that comes before the sync is known to be late, and is nobody else’s', () => {
    peer.ask('guest-fsfreeze-freeze');
    peer.dialogue.giveUp(late);
    expect(peer.dialogue.inStep).toBe(false);
    peer.sync(8);
    peer.ask('guest-fsfreeze-thaw');
    expect(peer.dialogue.wasAnsweredLate('guest-fsfreeze-freeze')).toBe(false);
    peer.hear('{"return":2}\n', MARK, '{"return":8}\n{"return":3}\n');
    expect(peer.dialogue.wasAnsweredLate('guest-fsfreeze-freeze')).toBe(true);
    expect(peer.log).toEqual(['guest-fsfreeze-freeze: timeout: too late', 'sync 8', 'guest-fsfreeze-thaw = 3']);
  });

  test('the complaint about the 0xFF is not taken for the late answer', () => {
    peer.ask('guest-fsfreeze-freeze');
    peer.dialogue.giveUp(late);
    peer.sync(8);
    peer.hear('{"error":{"class":"GenericError","desc":"JSON parse error, stray"}}\n', MARK, '{"return":8}\n');
    expect(peer.dialogue.wasAnsweredLate('guest-fsfreeze-freeze')).toBe(false);
  });

  test('a sync that was given up does not answer for the next', () => {
    peer.dialogue.giveUp(late);
    peer.sync(8);
    peer.dialogue.giveUp(late);
    peer.sync(9);
    peer.hear(MARK, '{"return":8}\n');
    expect(peer.dialogue.inStep).toBe(false);
    peer.hear(MARK, '{"return":9}\n');
    expect(peer.log).toEqual(['sync 8: timeout', 'sync 9']);
  });
});

test('outcomes do not depend on where the chunks of the stream end', () => {
  const stream = Buffer.concat([
    Buffer.from('"left over\n{"return":5}\n{"error":{"desc":"JSON parse error"}}\n'),
    MARK,
    Buffer.from('{"return":3}\r\n{"return":"frozen"}\n{"error":{"desc":"näh"}}\n\n{"return":{"a":"ÿ"}}\n'),
  ]);
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: stream.length - 1 })), (cuts) => {
      const recorded = new Recorded();
      recorded.sync(3);
      for (const command of ['a', 'b', 'c']) recorded.ask(command);
      const ends = [...new Set(cuts), stream.length].sort((x, y) => x - y);
      let start = 0;
      for (const end of ends) {
        recorded.dialogue.push(stream.subarray(start, end));
        start = end;
      }
      expect(recorded.log).toEqual([
        'sync 3',
        'a = "frozen"',
        "b: refused: the guest agent refused 'b': näh",
        'c = {"a":"ÿ"}',
      ]);
      expect(recorded.dialogue.inStep).toBe(true);
    }),
  );
});
