import { expect, test } from 'vitest';
import {
  formatMessage,
  type FromGuard,
  parseFromGuard,
  parseToGuard,
  type ToGuard,
} from '../../../src/guards/freeze-guard-messages.js';

const limits = { freezeTimeoutMs: 1, freezeLimitMs: 2, thawTimeoutMs: 3, connectTimeoutMs: 4 };
const toGuard: readonly ToGuard[] = [
  { type: 'start', agent: { kind: 'unix', path: '/a' }, ...limits },
  { type: 'freeze' },
  { type: 'status' },
  { type: 'finish' },
  { type: 'thaw' },
];
const fromGuard: readonly FromGuard[] = [
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

const lineOf = (text: string): Buffer => Buffer.from(text.trimEnd());

test.each(toGuard)('to the guard: $type', (message) => {
  expect(parseToGuard(lineOf(formatMessage(message)))).toEqual(message);
});

test.each(fromGuard)('from the guard: $type', (message) => {
  expect(parseFromGuard(lineOf(formatMessage(message)))).toEqual(message);
});

test.each(['{"type":"frozen"}', '{"type":"toString"}', '{}', '[]', 'null', 'freeze'])('refused: %s', (line) => {
  expect(() => parseToGuard(Buffer.from(line))).toThrow();
});
