import { mkdir, readdir, readFile, stat, symlink, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { Staging } from '../../../src/repository/staging.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();
const begun: Staging[] = [];

/** Every staging is ended, as a run does, or it keeps its files open. */
function stagingIn(...args: ConstructorParameters<typeof Staging>): Staging {
  const staging = new Staging(...args);
  begun.push(staging);
  return staging;
}

afterEach(async () => {
  for (const staging of begun.splice(0)) {
    staging.keep();
    await staging.undo();
  }
});

async function all(folder: string): Promise<string[]> {
  return (await readdir(folder, { recursive: true })).toSorted();
}

describe('staging', () => {
  it('makes folders and files for their owner only, and promotes', async () => {
    const root = await scratch();
    const target = join(root, 'a', 'b');
    const staging = stagingIn(target);
    await staging.makeTarget();
    await staging.makeDiskFolder('vd1');
    const path = await staging.reserve('vd1', 'FULL-1.qcow2');
    expect(path).toBe(join(target, 'vd1', 'FULL-1.qcow2.partial'));
    for (const folder of [join(root, 'a'), target, join(target, 'vd1')]) {
      expect((await stat(folder)).mode & 0o777).toBe(0o700);
    }
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await staging.promote('vd1', 'FULL-1.qcow2');
    expect(await all(root)).toEqual(['a', 'a/b', 'a/b/vd1', 'a/b/vd1/FULL-1.qcow2']);
    expect(staging.filePath('vd1', 'FULL-1.qcow2')).toBe(join(target, 'vd1', 'FULL-1.qcow2'));
  });

  it('undoes all it made, partial and promoted, and can be asked twice', async () => {
    const root = await scratch();
    const staging = stagingIn(join(root, 'a', 'b'));
    await staging.makeTarget();
    for (const disk of ['vd1', 'vd2']) {
      await staging.makeDiskFolder(disk);
      await staging.reserve(disk, 'FULL-1.qcow2');
    }
    await staging.promote('vd1', 'FULL-1.qcow2');
    await staging.undo();
    await staging.undo();
    expect(await all(root)).toEqual([]);
  });

  it('undoes nothing that it did not make', async () => {
    const target = await scratch();
    await mkdir(join(target, 'vd1'));
    await writeFile(join(target, 'vd1', 'FULL-0.qcow2'), 'old');
    const staging = stagingIn(target);
    await staging.makeTarget();
    await staging.makeDiskFolder('vd1');
    await staging.makeDiskFolder('vd2');
    await staging.reserve('vd1', 'INC-1.qcow2');
    await writeFile(join(target, 'vd2', 'mine'), 'somebody else put it there');
    await staging.undo();
    expect(await all(target)).toEqual(['vd1', 'vd1/FULL-0.qcow2', 'vd2', 'vd2/mine']);
  });

  it('leaves a file of the same name that a later run made', async () => {
    const target = await scratch();
    const staging = stagingIn(target);
    await staging.makeDiskFolder('vd1');
    const path = await staging.reserve('vd1', 'FULL-1.qcow2');
    await unlink(path);
    await writeFile(path, 'of another run');
    await staging.undo();
    expect(await readFile(path, 'utf8')).toBe('of another run');
  });

  it('undoes nothing once the point is kept', async () => {
    const target = await scratch();
    const staging = stagingIn(target);
    await staging.makeDiskFolder('vd1');
    await staging.reserve('vd1', 'FULL-1.qcow2');
    await staging.promote('vd1', 'FULL-1.qcow2');
    staging.keep();
    await staging.undo();
    await staging.undo();
    expect(await all(target)).toEqual(['vd1', 'vd1/FULL-1.qcow2']);
  });

  it('never writes over a file', async () => {
    const target = await scratch();
    const staging = stagingIn(target);
    await staging.makeDiskFolder('vd1');
    await writeFile(join(target, 'vd1', 'FULL-1.qcow2'), 'old');
    await writeFile(join(target, 'vd1', 'FULL-2.qcow2.partial'), 'old');
    for (const file of ['FULL-1.qcow2', 'FULL-2.qcow2']) {
      await expect(staging.reserve('vd1', file)).rejects.toMatchObject({ code: 'unsafe' });
    }
    await staging.reserve('vd1', 'FULL-3.qcow2');
    await writeFile(join(target, 'vd1', 'FULL-3.qcow2'), 'in between');
    await expect(staging.promote('vd1', 'FULL-3.qcow2')).rejects.toThrow('not overwritten');
  });

  it('says that a target or what is above it is a file', async () => {
    const root = await scratch();
    await writeFile(join(root, 'file'), '');
    for (const target of [join(root, 'file'), join(root, 'file', 'below'), join(root, 'file', 'far', 'below')]) {
      await expect(stagingIn(target).makeTarget()).rejects.toMatchObject({
        code: 'unsafe',
        message: expect.stringMatching(/is a file|not a directory/) as string,
        hint: expect.any(String) as string,
      });
    }
    expect(await all(root)).toEqual(['file']);
  });

  it('follows a link to the target, and none inside it', async () => {
    const root = await scratch();
    const outside = await scratch();
    await mkdir(join(root, 'real'));
    await symlink(join(root, 'real'), join(root, 'target'));
    await symlink(outside, join(root, 'real', 'vd1'));
    const staging = stagingIn(join(root, 'target'));
    await staging.makeTarget();
    await expect(staging.makeDiskFolder('vd1')).rejects.toMatchObject({
      code: 'unsafe',
      message: expect.stringContaining('symbolic link') as string,
    });
    expect(await all(outside)).toEqual([]);
    await symlink(join(root, 'nowhere'), join(root, 'dangling'));
    await expect(stagingIn(join(root, 'dangling')).makeTarget()).rejects.toThrow('no such file');
  });

  it.runIf(process.getuid?.() === 0)('gives all it makes to the owner', async () => {
    const root = await scratch();
    const staging = stagingIn(join(root, 'a', 'b'), { owner: { uid: 65534, gid: 65533 } });
    await staging.makeTarget();
    await staging.makeDiskFolder('vd1');
    await staging.reserve('vd1', 'FULL-1.qcow2');
    for (const path of await all(root)) {
      expect(await stat(join(root, path))).toMatchObject({ uid: 65534, gid: 65533 });
    }
  });
});
