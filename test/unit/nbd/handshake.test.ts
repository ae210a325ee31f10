import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NbdProtocolViolation, NbdRefused } from '../../../src/nbd/errors.js';
import { type ExportRequest, type NbdExport, negotiate } from '../../../src/nbd/handshake.js';
import { Intake } from '../../../src/nbd/wire.js';
import { blockSizeInfo, contextReply, exportInfo, greeting, optionReply, u16, u32 } from '../../support/nbd-bytes.js';

const CONTEXTS = ['base:allocation', 'qemu:dirty-bitmap:b'];
const ack = (option: number): Buffer => optionReply(option, 1);
const refuse = (option: number, error: number, words = ''): Buffer =>
  optionReply(option, 0x8000_0000 + error, Buffer.from(words));
const contexts = [contextReply(7, CONTEXTS[0]!), contextReply(9, CONTEXTS[1]!), ack(10)];
const go = [exportInfo(1_000_448, 0x1 | 0x2 | 0x4 | 0x40), blockSizeInfo(512, 4096, 0xffff_ffff), ack(7)];

interface Talk {
  readonly result: NbdExport | undefined;
  readonly error: unknown;
  readonly sent: Buffer;
}

/** All that the server says, in pieces, and what came of it. */
function talk(said: readonly Buffer[], request: Partial<ExportRequest> = {}, pieces: readonly number[] = []): Talk {
  const sent: Buffer[] = [];
  let result: NbdExport | undefined;
  const reader = negotiate({ exportName: 'vda', contexts: CONTEXTS, ...request }, (bytes) => sent.push(bytes));
  const bytes = Buffer.concat(said);
  let error: unknown;
  try {
    const intake = new Intake(
      (function* () {
        result = yield* reader;
      })(),
    );
    feed(intake, bytes, pieces);
  } catch (thrown) {
    error = thrown;
  }
  return { result, error, sent: Buffer.concat(sent) };
}

function feed(intake: Intake, bytes: Buffer, pieces: readonly number[]): void {
  let at = 0;
  for (let turn = 0; at < bytes.length; turn += 1) {
    const { space } = intake;
    if (space === undefined) throw new Error(`${bytes.length - at} bytes are left over`);
    const count = Math.min(space.length, bytes.length - at, pieces[turn % pieces.length] ?? Infinity);
    bytes.copy(space, 0, at, at + count);
    intake.received(count);
    at += count;
  }
}

function refusalOf(said: readonly Buffer[], request: Partial<ExportRequest> = {}): NbdRefused {
  const { error } = talk(said, request);
  expect(error).toBeInstanceOf(NbdRefused);
  return error as NbdRefused;
}

function violationOf(...said: readonly Buffer[]): string {
  const { error } = talk(said);
  expect(error).toBeInstanceOf(NbdProtocolViolation);
  return (error as Error).message;
}

describe('the handshake', () => {
  const good = [greeting(), ack(8), ...contexts, ...go];

  it('opens an export however its bytes are split', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1 }), (pieces) => {
        const { result, error, sent } = talk(good, {}, pieces);
        expect(error).toBeUndefined();
        expect(result).toEqual({
          name: 'vda',
          size: 1_000_448,
          readOnly: true,
          canFlush: true,
          canWriteZeroes: true,
          structuredReplies: true,
          minBlock: 512,
          preferredBlock: 4096,
          maxPayload: 32 * 1024 * 1024,
          contextIds: new Map([
            [CONTEXTS[0], 7],
            [CONTEXTS[1], 9],
          ]),
        });
        expect(sent.readUInt32BE()).toBe(3);
        expect(sent.includes('qemu:dirty-bitmap:b')).toBe(true);
      }),
    );
  });

  it('repeats only the flags that it knows', () => {
    expect(talk([greeting(0xffff)]).sent.readUInt32BE()).toBe(3);
    expect(talk([greeting(1)]).sent.readUInt32BE()).toBe(1);
  });

  it('goes on without block sizes, and without structured replies where no context is asked for', () => {
    const { result } = talk([greeting(), refuse(8, 1), exportInfo(10, 0), ack(7)], { contexts: [] });
    expect(result).toMatchObject({ size: 10, structuredReplies: false, minBlock: 1, readOnly: false, canFlush: false });
  });

  it('passes over infos that are not known', () => {
    const info = optionReply(7, 3, Buffer.concat([u16(1), Buffer.from('a name')]));
    expect(talk([greeting(), ack(8), ...contexts, info, ...go]).result?.size).toBe(1_000_448);
  });

  it('names a context that the server leaves out without a word', () => {
    expect(refusalOf([greeting(), ack(8), contexts[0]!, ack(10)])).toMatchObject({
      refusal: 'context',
      message: "the NBD server has no 'qemu:dirty-bitmap:b' for the export 'vda'",
    });
  });

  it('tells the refusals of a server apart, in its words', () => {
    const noExport = refusalOf([greeting(), ack(8), refuse(10, 6, 'no vda here')]);
    expect(noExport).toMatchObject({ refusal: 'export', message: "the NBD server has no export 'vda': no vda here" });
    expect(refusalOf([greeting(), ack(8), ...contexts, refuse(7, 6)]).refusal).toBe('export');
    expect(refusalOf([greeting(), refuse(8, 5)]).refusal).toBe('tls');
    expect(refusalOf([greeting(), ack(8), ...contexts, refuse(7, 5)]).refusal).toBe('tls');
    expect(refusalOf([greeting(), refuse(8, 1)]).refusal).toBe('unsupported');
    expect(refusalOf([greeting(), ack(8), refuse(10, 1)]).refusal).toBe('unsupported');
    expect(refusalOf([greeting(), ack(8), refuse(10, 2, 'not you')]).message).toContain('not you');
    expect(refusalOf([greeting(2)]).refusal).toBe('unsupported');
    const old = Buffer.concat([Buffer.from('NBDMAGIC'), Buffer.from('0000420281861253', 'hex')]);
    expect(refusalOf([old]).message).toContain('old protocol');
    expect(refusalOf([], { exportName: 'x'.repeat(4097) }).refusal).toBe('other');
  });

  it.each([
    ['a wrong greeting', [Buffer.from('SSH-2.0-OpenSSH')]],
    ['a wrong second magic', [Buffer.from('NBDMAGICxxxxxxxx')]],
    ['a wrong magic of a reply', [greeting(), Buffer.alloc(20)]],
    ['the reply to another option', [greeting(), ack(7)]],
    ['an endless reply', [greeting(), optionReply(8, 1).fill(0xff, 16, 20)]],
    ['a context that nobody asked for', [greeting(), ack(8), contextReply(1, 'base:other')]],
    ['one context twice', [greeting(), ack(8), contexts[0]!, contexts[0]!]],
    ['one id for two contexts', [greeting(), ack(8), contexts[0]!, contextReply(7, CONTEXTS[1]!)]],
    ['a context without id', [greeting(), ack(8), optionReply(10, 4, u16(1))]],
    ['an info where a context belongs', [greeting(), ack(8), optionReply(10, 3, u32(1))]],
    ['no size', [greeting(), ack(8), ...contexts, ack(7)]],
    ['a size that no number holds', [greeting(), ack(8), ...contexts, exportInfo(2n ** 63n, 1)]],
    ['half an info', [greeting(), ack(8), ...contexts, optionReply(7, 3, Buffer.concat([u16(0), u32(1)]))]],
    ['an empty info', [greeting(), ack(8), ...contexts, optionReply(7, 3)]],
    ['a block size of 0', [greeting(), ack(8), ...contexts, blockSizeInfo(0, 4096, 65_536)]],
    ['a block size that is no power of two', [greeting(), ack(8), ...contexts, blockSizeInfo(513, 4096, 65_536)]],
    ['a block of 2 GiB', [greeting(), ack(8), ...contexts, blockSizeInfo(2 ** 31, 2 ** 31, 0xffff_ffff)]],
    ['a largest block below the smallest', [greeting(), ack(8), ...contexts, blockSizeInfo(512, 512, 0)]],
  ])('ends with a violation at %s', (_name, said) => {
    expect(violationOf(...said)).toContain('broke the protocol');
  });

  it('never succeeds on anything but a whole good handshake', () => {
    const whole = Buffer.concat(good);
    fc.assert(
      fc.property(fc.integer({ min: 0, max: whole.length - 1 }), fc.integer({ min: 0, max: 255 }), (at, value) => {
        // Cut short it waits for more; with a byte changed it is refused, or differs only in what that byte says.
        expect(talk([whole.subarray(0, at)]).result).toBeUndefined();
        const changed = Buffer.from(whole);
        changed[at] = value;
        const { error } = talk([changed]);
        if (error !== undefined && !(error instanceof NbdRefused)) {
          const leftOver = error instanceof Error && error.message.endsWith('left over');
          if (!leftOver) expect(error).toBeInstanceOf(NbdProtocolViolation);
        }
      }),
      { numRuns: 500 },
    );
  });
});
