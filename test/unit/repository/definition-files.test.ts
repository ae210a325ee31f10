import { execFileSync } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import { mkdir, open, readFile, rename, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { keepPieces, listState, readUnchanged, readKept, writeNew } from '../../../src/repository/definition-files.js';
import { Staging } from '../../../src/repository/staging.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const folder = scratchFolders();
const MiB = 1024 * 1024;

describe('a file of the host', () => {
  it('is read whole, also when it is empty', async () => {
    const path = join(await folder(), 'vars.fd');
    await writeFile(path, '');
    expect((await readUnchanged(path)).length).toBe(0);
    await writeFile(path, Buffer.alloc(3 * MiB, 7));
    expect((await readUnchanged(path)).equals(Buffer.alloc(3 * MiB, 7))).toBe(true);
  });

  it('is read again when it was written to meanwhile, and given up when it never rests', async () => {
    const path = join(await folder(), 'vars.fd');
    await writeFile(path, 'a');
    const handle = await open(path);
    const prototype = Object.getPrototypeOf(handle) as typeof handle;
    await handle.close();
    const read = Reflect.get(prototype, 'read') as (...args: unknown[]) => Promise<unknown>;
    let writes = 1;
    const spy = vi.spyOn(prototype, 'read').mockImplementation(async function (this: unknown, ...args: unknown[]) {
      const result = await read.apply(this, args);
      if (writes-- > 0) appendFileSync(path, 'b');
      return result as never;
    });
    try {
      expect((await readUnchanged(path)).toString()).toBe('ab');
      writes = Number.POSITIVE_INFINITY;
      await expect(readUnchanged(path)).rejects.toThrow('written to all the time');
    } finally {
      spy.mockRestore();
    }
  });

  it('is refused when it is a pipe, a folder or too large, and is waited for by nobody', async () => {
    const dir = await folder();
    execFileSync('mkfifo', [join(dir, 'pipe')]);
    await expect(readUnchanged(join(dir, 'pipe'))).rejects.toThrow('not a regular file');
    await expect(readUnchanged(dir)).rejects.toThrow('not a regular file');
    await expect(readUnchanged(join(dir, 'none'))).rejects.toThrow(/cannot read .*none: no such file/);
    const large = await open(join(dir, 'large'), 'w');
    await large.truncate(65 * MiB);
    await large.close();
    await expect(readUnchanged(join(dir, 'large'))).rejects.toThrow('more than');
  });

  it('state is every regular file below a folder but its lock', async () => {
    const dir = await folder();
    await mkdir(join(dir, 'tpm2'));
    for (const name of ['tpm2/tpm2-00.permall', 'tpm2/.lock', 'a']) await writeFile(join(dir, name), '');
    await symlink('/etc/passwd', join(dir, 'link'));
    expect(await listState(dir)).toEqual(['a', 'tpm2/tpm2-00.permall']);
  });
});

describe('what is kept', () => {
  const bytes = Buffer.concat([Buffer.alloc(MiB), Buffer.from('end'), Buffer.alloc(MiB)]);
  const kept = async ({ sealed = true } = {}) => {
    const target = join(await folder(), 'target');
    const staging = new Staging(target);
    await staging.makeTarget();
    const [file] = await keepPieces(staging, [{ kind: 'nvram', file: 'NVRAM-1.bin', path: null, bytes }]);
    if (sealed) staging.keep();
    await staging.undo();
    return { target, file: file!, path: join(target, 'definition/NVRAM-1.bin') };
  };

  it('comes back byte for byte, and its zeros take no space', async () => {
    const { target, file, path } = await kept();
    expect((await readKept(target, file)).equals(bytes)).toBe(true);
    const stats = await stat(path);
    expect([stats.size, stats.mode & 0o777]).toEqual([bytes.length, 0o600]);
    expect(stats.blocks * 512).toBeLessThan(MiB);
  });

  it('goes again with a run that is undone', async () => {
    const { target } = await kept({ sealed: false });
    await expect(stat(target)).rejects.toThrow('ENOENT');
  });

  it('is refused as a link, itself or its folder, and when it is longer', async () => {
    const { target, file, path } = await kept();
    await rename(path, join(target, 'elsewhere'));
    await symlink('../elsewhere', path);
    await expect(readKept(target, file)).rejects.toMatchObject({ code: 'unsafe' });
    await rename(join(target, 'elsewhere'), path);
    await rename(join(target, 'definition'), join(target, 'moved'));
    await symlink('moved', join(target, 'definition'));
    await expect(readKept(target, file)).rejects.toThrow('its folder is a link');
    await expect(readKept(target, { ...file, file: '../x' })).rejects.toMatchObject({ code: 'unsafe' });
  });

  it('is never written over', async () => {
    const path = join(await folder(), 'x');
    await writeNew(path, Buffer.from('one'));
    await expect(writeNew(path, Buffer.from('two'))).rejects.toMatchObject({ code: 'unsafe' });
    expect(await readFile(path, 'utf8')).toBe('one');
  });
});
