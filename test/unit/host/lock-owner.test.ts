import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import {
  describeOwner,
  judgeOwner,
  type LockOwner,
  inspectProcess,
  parseOwner,
  type ProcessState,
  thisProcess,
} from '../../../src/host/lock-owner.js';

const here: LockOwner = {
  what: 'backup',
  host: 'alpha',
  machineId: 'm1',
  bootId: 'b1',
  pid: 10,
  pidNamespace: 'pid:[1]',
  processStartTime: '500',
  command: 'qmpbackup',
  since: '2026-11-21T12:00:00.000Z',
};
const living: ProcessState = { startTime: '500', zombie: false };

describe('judgeOwner', () => {
  it.each<[string, Partial<LockOwner>, ProcessState, string]>([
    ['lives', {}, living, 'alive'],
    ['lives and may not be looked at', {}, 'hidden', 'alive'],
    ['is gone', {}, 'gone', 'dead'],
    ['is a zombie', {}, { startTime: '500', zombie: true }, 'dead'],
    ['had a pid that another process has now', {}, { startTime: '900', zombie: false }, 'dead'],
    ['is of an earlier boot, whoever has its pid now', { bootId: 'b0' }, living, 'dead'],
    ['is of an earlier boot and was in a container', { bootId: 'b0', pidNamespace: 'pid:[2]' }, 'gone', 'dead'],
    ['is in another container of this host', { pidNamespace: 'pid:[2]' }, 'gone', 'elsewhere'],
    ['is on another host', { host: 'beta' }, 'gone', 'elsewhere'],
    ['is on another host of the same name', { machineId: 'm2', bootId: 'b2' }, 'gone', 'elsewhere'],
  ])('an owner that %s', (_, change, state, fate) => {
    expect(judgeOwner({ ...here, ...change }, here, () => state)).toBe(fate);
  });
});

describe('lookAtProcess', () => {
  it('tells this process from one that ended', async () => {
    const self = thisProcess('test');
    expect(inspectProcess(process.pid)).toEqual({ startTime: self.processStartTime, zombie: false });
    expect(judgeOwner(self, self, inspectProcess)).toBe('alive');
    const child = spawn(process.execPath, ['-e', '0']);
    await once(child, 'exit');
    expect(inspectProcess(child.pid!)).toBe('gone');
  });
});

describe('a lock record', () => {
  it('is read back as written', () => {
    expect(parseOwner(JSON.stringify(here))).toEqual(here);
  });

  it.each([
    '',
    '{"what":',
    'null',
    '[]',
    '{}',
    JSON.stringify({ ...here, pid: 0 }),
    JSON.stringify({ ...here, pid: 1e9 }),
  ])('is none when it reads %j', (text) => {
    expect(parseOwner(text)).toBeUndefined();
  });

  it('is none when a field is missing', () => {
    expect(parseOwner(JSON.stringify({ ...here, host: undefined }))).toBeUndefined();
  });

  it('brings no control characters to a terminal', () => {
    const text = describeOwner({ ...here, what: 'a\u001b[2Jb\u202e', host: 'h\n' });
    expect(text).toBe('a?[2Jb? (pid 10 on h?, since 2026-11-21T12:00:00.000Z)');
  });
});
