import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NbdProtocolViolation, NbdServerError } from '../../../src/nbd/errors.js';
import { type BlockStatus, readReplies, type Waiting } from '../../../src/nbd/replies.js';
import { NbdCommand, Intake } from '../../../src/nbd/wire.js';
import {
  chunk,
  dataChunk,
  doneChunk,
  errorChunk,
  holeChunk,
  simpleReply,
  statusChunk,
  u32,
  u64,
} from '../../support/nbd-bytes.js';

const CONTEXT_IDS = [3, 4];

/** Requests that wait, and what became of each. */
class Desk {
  readonly waiting = new Map<bigint, Waiting>();
  readonly settled = new Map<bigint, BlockStatus | Error>();
  readonly intake: Intake;

  constructor(structuredReplies = true) {
    this.intake = new Intake(
      readReplies({
        structuredReplies,
        contextIds: CONTEXT_IDS,
        find: (cookie) => this.waiting.get(cookie),
        done: (cookie) => void this.waiting.delete(cookie),
      }),
    );
  }

  ask(cookie: bigint, command: NbdCommand, offset: number, length: number): Buffer {
    const into = Buffer.alloc(command === NbdCommand.read ? length : 0, 0xee);
    const settle = (outcome: BlockStatus | Error): void => {
      if (this.settled.has(cookie)) throw new Error('settled twice');
      this.settled.set(cookie, outcome);
    };
    this.waiting.set(cookie, { command, offset, length, into, resolve: settle, reject: settle });
    return into;
  }

  hear(bytes: Buffer, pieces: readonly number[] = []): void {
    let at = 0;
    for (let turn = 0; at < bytes.length; turn += 1) {
      const space = this.intake.space!;
      const count = Math.min(space.length, bytes.length - at, pieces[turn % pieces.length] ?? Infinity);
      expect(count).toBeGreaterThan(0);
      bytes.copy(space, 0, at, at + count);
      this.intake.received(count);
      at += count;
    }
  }
}

/** The answer to one read: its parts in any order, data or hole, the last of them or a chunk of its own the end. */
interface ReadPlan {
  readonly offset: number;
  readonly parts: readonly { readonly start: number; readonly data: Buffer; readonly hole: boolean }[];
  readonly ownEnd: boolean;
}

const readPlans: fc.Arbitrary<ReadPlan> = fc
  .record({
    offset: fc.integer({ min: 0, max: 2 ** 50 }),
    lengths: fc.array(fc.tuple(fc.integer({ min: 1, max: 40 }), fc.boolean()), { minLength: 1, maxLength: 8 }),
    seed: fc.integer({ min: 1, max: 255 }),
    order: fc.array(fc.nat(), { minLength: 8, maxLength: 8 }),
    ownEnd: fc.boolean(),
  })
  .map(({ offset, lengths, seed, order, ownEnd }) => {
    let start = 0;
    const parts = lengths.map(([length, hole], index) => {
      const data = hole ? Buffer.alloc(length) : Buffer.alloc(length, (seed + index) % 256);
      const part = { start, data, hole, rank: order[index]! };
      start += length;
      return part;
    });
    return { offset, parts: parts.toSorted((a, b) => a.rank - b.rank), ownEnd };
  });

function chunksOf({ offset, parts, ownEnd }: ReadPlan, cookie: bigint): Buffer[] {
  const chunks = parts.map(({ start, data, hole }, index) => {
    const done = !ownEnd && index === parts.length - 1;
    return hole ? holeChunk(cookie, offset + start, data.length, done) : dataChunk(cookie, offset + start, data, done);
  });
  return ownEnd ? [...chunks, doneChunk(cookie)] : chunks;
}

describe('structured replies', () => {
  it('put every byte where it belongs, however requests, parts and bytes are mixed and split', () => {
    fc.assert(
      fc.property(
        fc.array(readPlans, { minLength: 1, maxLength: 5 }),
        fc.array(fc.nat(), { minLength: 1, maxLength: 60 }),
        fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }),
        (plans, draws, pieces) => {
          const desk = new Desk();
          const queues = plans.map((plan, index) => chunksOf(plan, BigInt(index)));
          const buffers = plans.map(({ offset, parts }, index) => {
            const length = parts.reduce((sum, { data }) => sum + data.length, 0);
            return desk.ask(BigInt(index), NbdCommand.read, offset, length);
          });
          const mixed: Buffer[] = [];
          for (let turn = 0; queues.some((queue) => queue.length > 0); turn += 1) {
            const open = queues.filter((queue) => queue.length > 0);
            mixed.push(open[draws[turn % draws.length]! % open.length]!.shift()!);
          }
          desk.hear(Buffer.concat(mixed), pieces);
          plans.forEach(({ parts }, index) => {
            const expected = parts.toSorted((a, b) => a.start - b.start).map(({ data }) => data);
            expect(buffers[index]).toEqual(Buffer.concat(expected));
            expect(desk.settled.get(BigInt(index))).toEqual(new Map());
          });
          expect(desk.waiting.size).toBe(0);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('tell extents of every context, of different lengths and the last beyond what was asked for', () => {
    const desk = new Desk();
    desk.ask(1n, NbdCommand.blockStatus, 0, 100);
    desk.hear(Buffer.concat([statusChunk(1n, 4, [[60, 1]]), statusChunk(1n, 3, [[99, 0], [500, 2]], true)]), [7]); // prettier-ignore
    expect(desk.settled.get(1n)).toEqual(
      new Map([
        [4, [{ length: 60, flags: 1 }]],
        [3, [{ length: 99, flags: 0 }, { length: 500, flags: 2 }]], // prettier-ignore
      ]),
    );
  });

  it('fail one request in the words of the server, and leave the others', () => {
    const desk = new Desk();
    desk.ask(1n, NbdCommand.read, 4096, 512);
    const other = desk.ask(2n, NbdCommand.read, 0, 4);
    desk.hear(
      Buffer.concat([
        dataChunk(1n, 4096, Buffer.alloc(100)),
        errorChunk(1n, 5, 'the disk is gone', { offset: 4196 }),
        errorChunk(1n, 28, 'a second reason'),
        dataChunk(2n, 0, Buffer.from('abcd'), true),
        doneChunk(1n),
      ]),
      [3],
    );
    const error = desk.settled.get(1n) as NbdServerError;
    expect(error).toBeInstanceOf(NbdServerError);
    expect(error.errno).toBe('EIO');
    expect(error.message).toBe('the NBD server failed to read 512 bytes at 4096: EIO (the disk is gone)');
    expect(other.toString()).toBe('abcd');
  });

  it('fail on errors of types and numbers that are not known, too', () => {
    const desk = new Desk();
    desk.ask(1n, NbdCommand.writeZeroes, 0, 512);
    desk.hear(chunk(1n, 0x80ff, Buffer.concat([u32(77), Buffer.alloc(2)]), { done: true }));
    expect(desk.settled.get(1n)).toMatchObject({ errno: 'errno 77' });
  });
});

describe('simple replies', () => {
  it('end what needs no chunks, well or with an errno', () => {
    const desk = new Desk();
    desk.ask(1n, NbdCommand.write, 0, 512);
    desk.ask(2n, NbdCommand.flush, 0, 0);
    desk.ask(3n, NbdCommand.read, 0, 512);
    desk.hear(Buffer.concat([simpleReply(2n), simpleReply(1n, 28), simpleReply(3n, 108)]), [5]);
    expect(desk.settled.get(2n)).toEqual(new Map());
    expect(desk.settled.get(1n)).toMatchObject({ errno: 'ENOSPC' });
    expect(desk.settled.get(3n)).toMatchObject({ errno: 'ESHUTDOWN' });
  });

  it('carry what is read where nothing else was agreed on', () => {
    const desk = new Desk(false);
    const into = desk.ask(1n, NbdCommand.read, 0, 6);
    desk.hear(Buffer.concat([simpleReply(1n), Buffer.from('simple')]), [4]);
    expect(into.toString()).toBe('simple');
    expect(desk.settled.has(1n)).toBe(true);
  });
});

describe('a violation', () => {
  const read = (desk: Desk): Buffer => desk.ask(1n, NbdCommand.read, 1000, 100);
  const bytes = (count: number): Buffer => Buffer.alloc(count, 0xab);

  it.each<[string, readonly Buffer[]]>([
    ['a wrong magic number', [u32(0xdeadbeef), u32(0), u64(1)]],
    ['an answer to nobody', [simpleReply(99n)]],
    ['an answer to what is done', [dataChunk(1n, 1000, bytes(100), true), doneChunk(1n)]],
    ['data before what was asked for', [dataChunk(1n, 999, bytes(10))]],
    ['data beyond what was asked for', [dataChunk(1n, 1050, bytes(51))]],
    ['a chunk of 4 GiB', [chunk(1n, 1, u64(1000), { length: 0xffff_ffff })]],
    ['no data in a chunk of data', [chunk(1n, 1, u64(1000))]],
    ['the same bytes twice', [dataChunk(1n, 1000, bytes(50)), dataChunk(1n, 1049, bytes(2))]],
    ['bytes around others', [dataChunk(1n, 1010, bytes(5)), dataChunk(1n, 1000, bytes(100))]],
    ['bytes in others', [dataChunk(1n, 1000, bytes(100)), holeChunk(1n, 1010, 5)]],
    ['a hole over data', [dataChunk(1n, 1000, bytes(50)), holeChunk(1n, 1000, 100)]],
    ['a hole of no length', [holeChunk(1n, 1000, 0)]],
    ['a hole beyond the end', [holeChunk(1n, 1000, 101)]],
    ['a hole in too many bytes', [chunk(1n, 2, Buffer.alloc(13))]],
    ['an end before all bytes are there', [dataChunk(1n, 1000, bytes(99), true)]],
    ['an end without any byte', [doneChunk(1n)]],
    ['a gap in the middle', [dataChunk(1n, 1000, bytes(10)), dataChunk(1n, 1020, bytes(80), true)]],
    ['a simple reply to a read', [simpleReply(1n)]],
    ['both kinds of reply', [dataChunk(1n, 1000, bytes(10)), simpleReply(1n, 5)]],
    ['an empty chunk that is not empty', [chunk(1n, 0, bytes(1), { done: true })]],
    ['an empty chunk that is not the last', [chunk(1n, 0)]],
    ['extents for a read', [statusChunk(1n, 3, [[100, 0]], true)]],
    ['a chunk of unknown type', [chunk(1n, 77, bytes(4))]],
    ['an error without number', [errorChunk(1n, 0, '', { done: true })]],
    ['an error that is too short', [chunk(1n, 0x8001, u32(5), { done: true })]],
    ['an error that is too long', [chunk(1n, 0x8001, bytes(8), { length: 5000 })]],
    ['an error whose text is longer than it', [chunk(1n, 0x8001, Buffer.concat([u32(5), bytes(2)]), { done: true })]],
  ])('of a read: %s', (_name, said) => {
    const desk = new Desk();
    read(desk);
    expect(() => desk.hear(Buffer.concat(said))).toThrow(NbdProtocolViolation);
    // Nothing but a whole and right answer settles a read.
    const whole = Buffer.concat(said).indexOf(dataChunk(1n, 1000, bytes(100), true)) === 0;
    expect(desk.settled.has(1n)).toBe(whole);
  });

  it.each<[string, readonly Buffer[]]>([
    ['an unknown context', [statusChunk(1n, 9, [[100, 0]])]],
    ['a context twice', [statusChunk(1n, 3, [[100, 0]]), statusChunk(1n, 3, [[100, 0]])]],
    ['a context left out', [statusChunk(1n, 3, [[100, 0]], true)]],
    ['none at all', [doneChunk(1n)]],
    ['no extent', [statusChunk(1n, 3, [])]],
    ['an extent of no length', [statusChunk(1n, 3, [[0, 0], [100, 0]])]], // prettier-ignore
    ['extents behind the end', [statusChunk(1n, 3, [[100, 0], [1, 0]])]], // prettier-ignore
    ['half an extent', [chunk(1n, 5, Buffer.alloc(10))]],
    ['more extents than memory', [chunk(1n, 5, u32(3), { length: 0xffff_fffc })]],
    ['a simple reply', [simpleReply(1n)]],
    ['data', [dataChunk(1n, 0, bytes(1))]],
  ])('of a block status: %s', (_name, said) => {
    const desk = new Desk();
    desk.ask(1n, NbdCommand.blockStatus, 0, 100);
    expect(() => desk.hear(Buffer.concat(said))).toThrow(NbdProtocolViolation);
    expect(desk.settled.has(1n)).toBe(false);
  });

  it('is a structured reply that was not agreed on', () => {
    const desk = new Desk(false);
    read(desk);
    expect(() => desk.hear(dataChunk(1n, 1000, bytes(100), true))).toThrow(NbdProtocolViolation);
  });

  it('is a read in pieces that never join', () => {
    const desk = new Desk();
    desk.ask(1n, NbdCommand.read, 0, 100_000);
    const pieces = Array.from({ length: 1100 }, (_, index) => dataChunk(1n, 99_999 - 2 * index, bytes(1)));
    expect(() => desk.hear(Buffer.concat(pieces))).toThrow(/too many/);
  });
});
