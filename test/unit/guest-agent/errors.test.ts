import { describe, expect, test } from 'vitest';
import { QmpBackupError } from '../../../src/errors.js';
import {
  AGENT_ERROR_KINDS,
  fromPlainError,
  GuestAgentError,
  GuestNotThawed,
  thawAgentByHand,
  toPlainError,
} from '../../../src/guest-agent/errors.js';

describe('thaw by hand', () => {
  test.each([
    [{ kind: 'unix', path: '/run/vm/agent.sock' } as const, 'UNIX-CONNECT:/run/vm/agent.sock'],
    [{ kind: 'unix', path: '/my vm/a.sock' } as const, "'UNIX-CONNECT:/my vm/a.sock'"],
    [{ kind: 'unix', path: "/it's" } as const, "'UNIX-CONNECT:/it'\\''s'"],
    [{ kind: 'tcp', host: '10.0.0.1', port: 4444 } as const, 'TCP:10.0.0.1:4444'],
    [{ kind: 'tcp', host: '::1', port: 4444 } as const, 'TCP:[::1]:4444'],
  ])('%j', (endpoint, address) => {
    expect(thawAgentByHand(endpoint)).toBe(`(echo '{"execute":"guest-fsfreeze-thaw"}'; sleep 2) | socat - ${address}`);
  });

  test('is the hint of a guest that may still be frozen', () => {
    const error = new GuestNotThawed({ kind: 'unix', path: '/a' }, new Error('no answer'));
    expect(error.message).toBe('it could not be confirmed that the guest is thawed: no answer');
    expect(error.hint).toContain('socat - UNIX-CONNECT:/a');
    expect(error.code).toBe('failed');
  });
});

describe('over the pipe', () => {
  test.each(AGENT_ERROR_KINDS)('an agent error keeps its kind: %s', (kind) => {
    const error = new GuestAgentError(kind, 'what and why', { hint: 'what next' });
    const back = fromPlainError(JSON.parse(JSON.stringify(toPlainError(error))) as ReturnType<typeof toPlainError>);
    expect(back).toBeInstanceOf(GuestAgentError);
    expect(back).toMatchObject({ kind, code: error.code, message: 'what and why', hint: 'what next' });
  });

  test('other errors keep code, message and hint', () => {
    const usage = fromPlainError(toPlainError(new QmpBackupError('usage', 'path too long', { hint: 'a shorter one' })));
    expect(usage).toMatchObject({ code: 'usage', message: 'path too long', hint: 'a shorter one' });
    expect(fromPlainError(toPlainError(new TypeError('oops')))).toMatchObject({ code: 'failed', message: 'oops' });
  });
});
