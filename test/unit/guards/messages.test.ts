import { expect, test } from 'vitest';
import type { FromFreezeGuard, ToFreezeGuard } from '../../../src/guards/freeze-guard-messages.js';
import { type Handlers, type Message, messageReader } from '../../../src/guards/messages.js';
import { formatJsonLine } from '../../../src/qmp/json-lines.js';

const toGuard: readonly ToFreezeGuard[] = [
  { type: 'freeze' },
  { type: 'status' },
  { type: 'finish' },
  { type: 'thaw' },
];
const fromGuard: readonly FromFreezeGuard[] = [
  { type: 'ready', agentVersion: '7.2.22' },
  { type: 'not-ready', error: { code: 'failed', message: 'no' } },
  { type: 'frozen', fileSystems: 2, tookMs: 3.5 },
  { type: 'status', status: 'frozen' },
  { type: 'no-status', error: { code: 'failed', kind: 'timeout', message: 'late' } },
  { type: 'thawing' },
  {
    type: 'thawed',
    cause: 'finish',
    statusBefore: 'frozen',
    timeline: { freezeAnsweredMs: 1, thawRequestedMs: 2, thawAnsweredMs: 3, confirmedMs: 4 },
  },
  { type: 'not-thawed', cause: 'limit', error: { code: 'failed', message: 'no answer' } },
];

/** What is handed on of those bytes to who knows these types. */
function read(types: readonly string[], ...chunks: readonly (string | Buffer)[]): readonly unknown[] {
  const heard: unknown[] = [];
  const reader = messageReader(
    Object.fromEntries(types.map((type) => [type, (message: Message) => heard.push(message)])),
  );
  for (const chunk of chunks) reader(Buffer.from(chunk));
  return heard;
}

const typesOf = (messages: readonly Message[]): readonly string[] => messages.map(({ type }) => type);

test.each(toGuard)('to the guard: $type', (message) => {
  expect(read(typesOf(toGuard), formatJsonLine(message))).toEqual([message]);
});

test.each(fromGuard)('from the guard: $type', (message) => {
  expect(read(typesOf(fromGuard), formatJsonLine(message))).toEqual([message]);
});

test('in their order, wherever the chunks end, each to its own handler', () => {
  const heard: string[] = [];
  const on: Handlers<ToFreezeGuard> = {
    freeze: ({ type }) => heard.push(`frozen by ${type}`),
    status: () => heard.push('asked'),
    finish: () => heard.push('finished'),
    thaw: () => heard.push('thawed'),
  };
  const reader = messageReader(on);
  const bytes = Buffer.from(['freeze', 'status', 'finish'].map((type) => formatJsonLine({ type })).join(''));
  reader(bytes.subarray(0, 10));
  expect(heard).toEqual([]);
  reader(bytes.subarray(10, -1));
  expect(heard).toEqual(['frozen by freeze', 'asked']);
  reader(bytes.subarray(-1));
  expect(heard).toEqual(['frozen by freeze', 'asked', 'finished']);
});

test.each(['{"type":"frozen"}', '{"type":"toString"}', '{"type":1}', '{}', '[]', 'null', 'freeze'])(
  'refused: %s',
  (line) => {
    expect(() => read(typesOf(toGuard), `${line}\n`)).toThrow();
  },
);
