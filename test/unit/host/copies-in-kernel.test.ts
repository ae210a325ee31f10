import { mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { copiesInKernel } from '../../../src/host/copies-in-kernel.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();

it('copies in the kernel within one local file system, and between no two', async () => {
  const here = await scratch();
  expect(copiesInKernel(here, here)).toBe(true);
  const elsewhere = await mkdtemp(join('/dev/shm', 'copies-'));
  try {
    expect(copiesInKernel(here, elsewhere)).toBe(false);
    expect(copiesInKernel(elsewhere, elsewhere)).toBe(true);
  } finally {
    await rm(elsewhere, { recursive: true });
  }
});
