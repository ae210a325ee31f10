import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { messageOf, QmpBackupError } from '../../src/errors.js';

it("are told without Node's codes and system calls", async () => {
  const error: unknown = await readFile('/no/such, file').catch((thrown: unknown) => thrown);
  expect(messageOf(error)).toBe('no such file or directory');
  const folder: unknown = await readFile('/').catch((thrown: unknown) => thrown);
  expect(messageOf(folder)).toBe('illegal operation on a directory');
});

it('are told as they are where they are of others', () => {
  expect(messageOf(new QmpBackupError('failed', 'ESOME: words, more'))).toBe('ESOME: words, more');
  expect(messageOf(new Error('plain'))).toBe('plain');
  expect(messageOf('text')).toBe('text');
});
