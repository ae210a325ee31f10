import { expect, it } from 'vitest';
import { exitCodeOf } from '../../../src/cli/exit-codes.js';
import { type ErrorCode, QmpBackupError } from '../../../src/errors.js';

it.each<[ErrorCode, number]>([
  ['failed', 1],
  ['usage', 2],
  ['partial', 3],
  ['damaged', 4],
  ['warnings', 5],
  ['no-catalog', 10],
  ['locked', 11],
  ['unreachable', 12],
  ['unsafe', 13],
])('%s ends with %i', (code, exitCode) => {
  expect(exitCodeOf(new QmpBackupError(code, ''), undefined)).toBe(exitCode);
});

it('a signal decides, whatever failed because of it; an error of unknown make is a failure', () => {
  expect(exitCodeOf(new QmpBackupError('failed', ''), 'SIGINT')).toBe(130);
  expect(exitCodeOf(new QmpBackupError('failed', ''), 'SIGTERM')).toBe(143);
  expect(exitCodeOf(new Error('?'), undefined)).toBe(1);
});
