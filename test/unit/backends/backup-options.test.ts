import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { backupOptions, type BackupRequest } from '../../../src/backends/backup-options.js';

const SOCKET = { socket: '/run/vm.qmp', target: '/backup' };

describe('a backup', () => {
  it('needs a VM and a target, and has defaults for the rest', () => {
    expect(backupOptions(SOCKET)).toMatchObject({
      vm: { kind: 'monitor', monitor: { kind: 'unix', path: '/run/vm.qmp' } },
      ...{ target: '/backup', level: 'auto', include: [], exclude: [], label: null, agent: null },
      ...{ quiesce: 'no', freezeTimeoutMs: 60_000, freezeLimitMs: 10_000, fleece: 'auto', cbwTimeoutMs: 10_000 },
      ...{ verify: null, digests: 'gmac', speedLimit: 0, reserve: null, stallTimeoutMs: 120_000 },
      ...{
        progressIntervalMs: 1000,
        method: 'auto',
        killJob: false,
        tool: expect.stringMatching(/^qmpbackup \d/) as string,
      },
    });
  });

  it.each<[Partial<BackupRequest>, object]>([
    [{ quiesce: true }, { quiesce: 'try' }],
    [{ quiesce: 'require' }, { quiesce: 'require' }],
    [{ verify: true }, { verify: 'all' }],
    [{ verify: 'sample' }, { verify: 'sample' }],
    [{ speedLimit: '20M' }, { speedLimit: 20 * 2 ** 20 }],
    [{ stallTimeout: 0.5 }, { stallTimeoutMs: 500 }],
    [
      { skipFailedDisks: true, digest: false, vmName: 'web' },
      { skipFailed: true, digests: null, label: 'web' },
    ],
    [{ sha256: true }, { digests: 'sha256' }],
    [{}, { chainLimits: [] }],
    [
      { autoFullAfter: ['30d', 100] },
      {
        chainLimits: [
          { kind: 'age', days: 30 },
          { kind: 'points', points: 100 },
        ],
      },
    ],
    [{ agentSocket: 'tcp:h:1' }, { agent: { kind: 'tcp', host: 'h', port: 1 } }],
  ])('%o', (request, options) => {
    expect(backupOptions({ ...SOCKET, ...request })).toMatchObject(options);
  });

  it('of a VM that is off names its images', () => {
    const { vm } = backupOptions({ target: '/b', offline: { d1: 'a=b.qcow2', d2: 'raw:/dev/vg/d2' } });
    expect(vm).toEqual({
      kind: 'images',
      images: [
        { name: 'd1', path: resolve('a=b.qcow2'), format: null },
        { name: 'd2', path: '/dev/vg/d2', format: 'raw' },
      ],
    });
  });

  it.each<[BackupRequest, string]>([
    [{ target: '/b' }, 'no VM was given'],
    [{ ...SOCKET, killJob: true }, '--kill-job is for libvirt domains'],
    [{ ...SOCKET, method: 'push' }, '--method push is for libvirt domains'],
    [{ ...SOCKET, startPaused: true }, '--start-paused starts a libvirt domain'],
    [{ domain: 'web', target: '/b', startPaused: true, method: 'push' }, '--start-paused goes with --method pull'],
    [{ ...SOCKET, method: 'overlay', level: 'copy' }, '--method overlay is for libvirt domains'],
    [{ domain: 'web', target: '/b', method: 'overlay' }, '--method overlay makes no increments by itself'],
    [{ domain: 'web', target: '/b', track: 'overlay' }, '--track overlay goes with --method overlay'],
    [{ domain: 'web', target: '/b', overlayDir: '/o' }, '--overlay-dir goes with --method overlay'],
    [{ domain: 'web', target: '/b', method: 'overlay', level: 'copy', fleeceDir: '/f' }, '--fleece and --fleece-dir'],
    [
      { domain: 'web', target: '/b', method: 'overlay', track: 'overlay', level: 'diff' },
      '--track overlay goes with --level full, inc or auto',
    ],
    [{ ...SOCKET, offline: { d1: '/a' } }, '--offline names the disks'],
    [{ target: '/b', offline: { d1: '/a', d2: 'raw:/a' } }, 'd1=/a was given before'],
    [{ ...SOCKET, sha256: true, digest: false }, '--sha256 and --no-digest contradict each other'],
    [{ ...SOCKET, autoFullAfter: '0d' }, '--auto-full-after: give an age such as 30d'],
    [
      { ...SOCKET, autoFullAfter: '30d', level: 'inc' },
      '--auto-full-after goes with --level auto, not with --level inc',
    ],
    [{ ...SOCKET, autoFullAfter: '30d', level: 'full' }, '--auto-full-after goes with --level auto'],
    [{ ...SOCKET, connect: 'qemu:///system' }, '--connect chooses the libvirt'],
  ])('%o is refused', (request, words) => {
    const usage = expect.objectContaining({
      code: 'usage',
      message: expect.stringContaining(words) as string,
    }) as Error;
    expect(() => backupOptions(request)).toThrow(usage);
  });
});
