import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { LineError } from '../../../src/qmp/errors.js';
import { afterLastByte, formatJsonLine, LineSplitter, parseJsonLine } from '../../../src/qmp/json-lines.js';

/** Cuts `bytes` at the given places and pushes the pieces one by one. */
function pushInPieces(splitter: LineSplitter, bytes: Buffer, cuts: readonly number[]) {
  const places = [0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  const results = places.slice(1).map((end, index) => splitter.push(bytes.subarray(places[index], end)));
  return { lines: results.flatMap(({ lines }) => lines), faults: results.flatMap(({ fault }) => fault ?? []) };
}

describe('LineSplitter', () => {
  test('gives the same messages however the bytes are cut', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.jsonValue(), fc.constantFrom('\n', '\r\n')), { maxLength: 8 }),
        fc.array(fc.nat(), { maxLength: 12 }),
        (messages, cuts) => {
          const text = messages.map(([message, end]) => JSON.stringify(message) + end).join('');
          const splitter = new LineSplitter();
          const { lines, faults } = pushInPieces(splitter, Buffer.from(text), cuts);
          expect(faults).toEqual([]);
          expect(lines.map(parseJsonLine)).toEqual(
            messages.map(([message]) => JSON.parse(JSON.stringify(message)) as unknown),
          );
          expect(splitter.pendingBytes).toBe(0);
        },
      ),
    );
  });

  test('puts UTF-8 together again when cut at every byte', () => {
    const message = { name: 'Müller – 日本 – 🐧' };
    const bytes = Buffer.from(formatJsonLine(message));
    const splitter = new LineSplitter();
    const { lines } = pushInPieces(splitter, bytes, [...bytes.keys()]);
    expect(lines.map(parseJsonLine)).toEqual([message]);
  });

  test('leaves out empty lines and keeps an unfinished one', () => {
    const splitter = new LineSplitter();
    expect(splitter.push(Buffer.from('\r\n\n1\r\n{"ha')).lines.map(String)).toEqual(['1']);
    expect(splitter.pendingBytes).toBe(4);
    expect(splitter.pendingExcerpt()).toBe('{"ha');
    splitter.reset();
    expect(splitter.push(Buffer.from('2\n')).lines.map(String)).toEqual(['2']);
  });

  test('gives the lines before one that is too long, then the fault', () => {
    for (const tail of ['x'.repeat(20), `${'x'.repeat(20)}\n3\n`]) {
      const { lines, fault } = new LineSplitter(10).push(Buffer.from(`1\n2\n${tail}`));
      expect(lines.map(String)).toEqual(['1', '2']);
      expect(fault).toBeInstanceOf(LineError);
      expect(fault).toMatchObject({ kind: 'too-long', excerpt: 'x'.repeat(20) });
    }
  });

  test('notices a line that is too long before its end has come', () => {
    const splitter = new LineSplitter(100);
    const chunk = Buffer.alloc(30, 'x');
    const faults = Array.from({ length: 4 }, () => splitter.push(chunk).fault);
    expect(faults.map((fault) => fault?.kind)).toEqual([undefined, undefined, undefined, 'too-long']);
  });

  test('accepts a line of just the allowed length', () => {
    const { lines, fault } = new LineSplitter(10).push(Buffer.from(`${'x'.repeat(10)}\r\n`));
    expect(fault).toBeUndefined();
    expect(lines).toHaveLength(1);
  });
});

describe('afterLastByte', () => {
  test('drops everything up to the last mark, and nothing without one', () => {
    const answer = '{"return":1}';
    const marked = Buffer.concat([Buffer.from('garb'), Buffer.of(0xff, 0x41, 0xff), Buffer.from(answer)]);
    expect(afterLastByte(marked, 0xff).toString()).toBe(answer);
    expect(afterLastByte(Buffer.from(answer), 0xff).toString()).toBe(answer);
  });
});

describe('parseJsonLine', () => {
  test.each([
    ['words', Buffer.from('QEMU 7.2 monitor')],
    ['half a message', Buffer.from('{"return": {')],
    ['two messages', Buffer.from('{} {}')],
    ['bytes that are not UTF-8', Buffer.from([0x22, 0xff, 0x22])],
  ])('refuses %s', (_what, line) => {
    expect(() => parseJsonLine(line)).toThrow(LineError);
  });

  test('shows a short excerpt without control characters', () => {
    const line = Buffer.from(`\u001b[31m${'y'.repeat(500)}`);
    try {
      parseJsonLine(line);
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ kind: 'not-json', code: 'failed', excerpt: `·[31m${'y'.repeat(75)}...` });
    }
  });
});
