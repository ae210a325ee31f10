import { mkdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';
import { type LibvirtLab, startLibvirt } from './lab/libvirt.js';
import { makeLabDir, run } from './lab/programs.js';
import { patient } from './patience.js';

/**
 * A libvirt for the tests of a file (or of the `describe` that calls it): started before them and before the hooks that follow,
 * ended after them. It is there once they run, and not while they are collected.
 */
export function useLibvirt(): LibvirtLab {
  let lab: LibvirtLab | undefined;
  beforeAll(async () => {
    lab = await startLibvirt();
  }, patient(180_000));
  afterAll(async () => {
    await lab?.close();
  });
  return new Proxy({} as LibvirtLab, {
    get: (_, property): unknown => {
      if (!lab) throw new Error(`the libvirt of these tests has not been started: ${String(property)}`);
      return Reflect.get(lab, property);
    },
  });
}

/**
 * A folder on a small tmpfs of its own, as `useLibvirt` makes its libvirt, and to be called before it: a libvirt of the tests sees
 * only what was mounted by its start.
 */
export function useSmallFolder(size: string): () => string {
  let folder: string | undefined;
  beforeAll(async () => {
    const made = join(await makeLabDir(), 'small');
    await mkdir(made);
    await run('mount', ['-t', 'tmpfs', '-o', `size=${size},mode=0755`, 'qmplab', made]);
    folder = made;
  });
  afterAll(async () => {
    if (folder === undefined) return;
    await run('umount', ['-l', folder]);
    await rm(dirname(folder), { recursive: true });
  });
  return () => {
    if (folder === undefined) throw new Error('the small folder of these tests has not been made');
    return folder;
  };
}
