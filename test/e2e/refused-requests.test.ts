import { expect, it } from 'vitest';
import { backup, cleanup, importPoints, info, list, merge, rebase, restore } from '../../src/index.js';
import { doctor } from '../../src/operations/doctor/doctor.js';
import { expectCli } from '../support/cli.js';

/** As a caller without types gives it. */
const told = (request: object): never => request as never;
const S = '/run/none.qmp';
const T = '/none';

it.each<[string, readonly string[], () => Promise<unknown>]>([
  ['no VM was given', ['backup', '-t', T], () => backup({ target: T })],
  ['--target', ['--socket', S, 'backup'], () => backup(told({ socket: S }))],
  ['give bytes', ['backup', '-t', T, '--reserve', 'much'], () => backup({ target: T, reserve: 'much' })],
  ['a day', ['backup', '-t', T, '--stall-timeout', '0'], () => backup({ target: T, stallTimeout: 0 })],
  ['at least one name', ['backup', '-t', T, '--include', ','], () => backup({ target: T, include: [] })],
  ['full, inc', ['backup', '-t', T, '--level', 'half'], () => backup(told({ target: T, level: 'half' }))],
  ['is not known', ['backup', '-t', T, '--verify=most'], () => backup(told({ target: T, verify: 'most' }))],
  ['has an empty value', ['backup', '-t', T, '--vm-name', ''], () => backup({ target: T, vmName: '' })],
  [
    'name a VM each',
    ['--socket', S, '--domain', 'd', 'backup', '-t', T],
    () => backup({ target: T, socket: S, domain: 'd' }),
  ],
  [
    '--kill-job is for libvirt',
    ['--socket', S, 'backup', '-t', T, '--kill-job'],
    () => backup({ target: T, socket: S, killJob: true }),
  ],
  ['no disk id', ['backup', '-t', T, '--offline', '..=/a'], () => backup({ target: T, offline: { '..': '/a' } })],
  ['no VM was given', ['info'], () => info({})],
  ['told nothing to clean up', ['--socket', S, 'cleanup'], () => cleanup({ socket: S })],
  [
    '--target goes with --stale',
    ['--socket', S, 'cleanup', '--remove-bitmaps', '-t', T],
    () => cleanup({ socket: S, removeBitmaps: true, targets: [T] }),
  ],
  [
    'targets whose bitmaps are still needed',
    ['--socket', S, 'cleanup', '--remove-bitmaps', '--stale'],
    () => cleanup({ socket: S, removeBitmaps: true, stale: true }),
  ],
  ['nothing to look at', ['doctor'], () => doctor({})],
  ['the disk is not named', ['rebase', '-t', T], () => rebase({ target: T })],
  [
    'is no disk id',
    ['merge', '-t', T, '--disk', '..', '--targetfile', '/x'],
    () => merge({ target: T, disk: '..', targetFile: '/x' }),
  ],
  ['--output', ['restore', '-t', T], () => restore(told({ target: T }))],
  ['--from', ['import', '/x', '-t', T], () => importPoints(told({ source: '/x', target: T }))],
  ['--target', ['list'], () => list(told({}))],
])('%s: %j is refused on the command line and as a call', async (words, args, call) => {
  expect((await expectCli(2, args)).stderr).toContain(words);
  await expect(call()).rejects.toMatchObject({ code: 'usage', message: expect.stringContaining(words) as string });
});

it('what is no option is one nowhere', async () => {
  await expectCli(2, ['--socket', S, 'backup', '-t', T, '--speedlimit', '1']);
  await expect(backup(told({ socket: S, target: T, speedlimit: 1 }))).rejects.toMatchObject({
    code: 'usage',
    hint: expect.stringContaining('speedLimit') as string,
  });
});
