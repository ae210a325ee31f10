import * as v from 'valibot';
import { describe, expect, test } from 'vitest';
import { domainFreezeTask } from '../../../src/guards/domain-freeze-guard-messages.js';
import { freezeTask } from '../../../src/guards/freeze-guard-messages.js';
import { pauseTask } from '../../../src/guards/pause-guard-messages.js';
import { pullTask } from '../../../src/guards/pull-guard-task.js';

const unix = { kind: 'unix', path: '/run/vm.sock' };
const limits = { freezeTimeoutMs: 1, freezeLimitMs: 2, thawTimeoutMs: 3 };

describe.each([
  ['freeze guard', freezeTask, { agent: unix, ...limits, connectTimeoutMs: 4 }],
  ['domain freeze guard', domainFreezeTask, { connect: null, uuid: 'u', name: 'vm', ...limits }],
  ['pause guard', pauseTask, { monitor: { kind: 'tcp', host: '::1', port: 4444 }, limitMs: 1.5 }],
  [
    'pull guard',
    pullTask,
    { connect: 'qemu:///system', uuid: 'u', socket: '/s', resumes: true, owner: { pid: 1, startTime: '1' } },
  ],
] as const)('the task of a %s', (_, schema, task) => {
  test('whole', () => {
    expect(v.parse(schema, task)).toEqual(task);
  });

  test.each(Object.keys(task))('not one with something else for %s', (key) => {
    for (const value of [{}, [], /^connect$/.test(key) ? 1 : null]) {
      expect(() => v.parse(schema, { ...task, [key]: value })).toThrow();
    }
  });

  test.each([null, 'u', {}, []])('not %j', (value) => {
    expect(() => v.parse(schema, value)).toThrow();
  });
});

test('the limits of a freeze, where none are given', () => {
  expect(v.parse(freezeTask, { agent: unix, freezeLimitMs: undefined })).toEqual({
    agent: unix,
    freezeTimeoutMs: 60_000,
    freezeLimitMs: 10_000,
    thawTimeoutMs: 30_000,
    connectTimeoutMs: 5_000,
  });
});

test.each([
  [unix, true],
  [{ kind: 'unix', host: 'a', port: 1 }, false],
  [{ kind: 'vsock', path: '/a' }, false],
])('where a monitor listens: %j is %s', (monitor, expected) => {
  expect(v.is(pauseTask, { monitor, limitMs: 1 })).toBe(expected);
});
