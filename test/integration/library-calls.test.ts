import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { backup, type BackupRequest, cleanup, restore } from '../../src/index.js';
import { imageBitmaps } from '../../src/qemu-tools/bitmaps.js';
import { imageFile } from '../../src/qemu-tools/image-file.js';
import { built } from '../support/built.js';
import { run, withTemporaryDir } from '../support/lab/programs.js';

// What a program can count on that calls the library, beside what the commands do.

it('does nothing to the process that only imports it', async () => {
  const counts = `['SIGINT', 'SIGTERM', 'SIGHUP'].map((event) => process.listenerCount(event))`;
  const script = `await import(${JSON.stringify(await built('index.js'))}); console.log(JSON.stringify(${counts}))`;
  const { stdout, stderr } = await execa(process.execPath, ['--input-type=module', '-e', script]);
  expect([stdout, stderr]).toEqual(['[0,0,0]', '']);
});

describe('a call that was aborted', () => {
  const signal = AbortSignal.abort();

  it('says so in our words, and has made nothing', async () => {
    await withTemporaryDir(async (dir) => {
      const image = join(dir, 'disk.qcow2');
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M']);
      const target = join(dir, 'target');
      const interrupted = { name: 'QmpBackupError', code: 'interrupted' };
      await expect(backup({ offline: { disk: image }, target }, { signal })).rejects.toMatchObject(interrupted);
      await expect(restore({ target, output: join(dir, 'out') }, { signal })).rejects.toMatchObject({
        name: 'QmpBackupError',
      });
    });
  });

  it('removes no bitmap', async () => {
    await withTemporaryDir(async (dir) => {
      const image = join(dir, 'disk.qcow2');
      const bitmap = 'qmpbackup-0123456789abcdef-disk-0123456789ab';
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', image, '1M']);
      await run('qemu-img', ['bitmap', '--add', image, bitmap]);
      const request = { removeBitmaps: true, images: [image] };
      await expect(cleanup(request, { signal })).rejects.toMatchObject({ code: 'interrupted' });
      expect(await imageBitmaps(await imageFile({ path: image, format: 'qcow2' }))).toHaveLength(1);
      expect((await cleanup(request)).bitmaps).toMatchObject([{ bitmap, removed: true }]);
    });
  });
});

it.each([
  [{ offline: ['disk1=/x'] }, '--offline: give files by disk id.'],
  [{ offline: 5 }, '--offline: give files by disk id.'],
  [
    { freezeTimeout: true },
    '--freeze-timeout: give a number of seconds greater than 0, at most a day, or a time such as 90s, 10m or 2h.',
  ],
  [{ speedLimit: [20] }, '--speed-limit: give bytes, such as 1048576, 512K, 20M or 1G.'],
  [{ speedLimit: '99999999999999999T' }, '--speed-limit: give bytes, such as 1048576, 512K, 20M or 1G.'],
])('refuses %j in words', async (wrong, message) => {
  const request = { target: '/nowhere', socket: '/nowhere', ...wrong } as unknown as BackupRequest;
  await expect(backup(request)).rejects.toMatchObject({ code: 'usage', message });
});

it.each([null, undefined, []])('refuses %j in place of a request', async (request) => {
  await expect(backup(request as unknown as BackupRequest)).rejects.toMatchObject({ code: 'usage' });
});

it('takes no empty path for the current folder', async () => {
  await expect(cleanup({ removeBitmaps: true, images: [''] })).rejects.toMatchObject({ code: 'usage' });
});
