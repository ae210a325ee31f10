import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeCatalog } from '../../../src/repository/catalog-file.js';
import { refuseOverlaysInTarget } from '../../../src/repository/nesting.js';
import { catalog, entry, point } from '../../support/builders.js';
import { scratchFolders } from '../../support/scratch-folder.js';

const scratch = scratchFolders();

describe('the folder of overlays', () => {
  it('lies beside a target, and neither inside of the other', async () => {
    const dir = await scratch();
    const target = join(dir, 'target');
    expect(await refuseOverlaysInTarget(join(dir, 'target-overlays'), target)).toBeNull();
    const refused = [
      [target, /is inside of the target/],
      [join(target, 'a', 'b'), /is inside of the target/],
      [dir, /the target .* is inside of the folder/],
      ['/', /the target .* is inside of the folder/],
    ] as const;
    for (const [overlays, message] of refused) {
      const words = expect.stringMatching(message) as string;
      await expect(refuseOverlaysInTarget(overlays, target)).rejects.toMatchObject({ code: 'unsafe', message: words });
    }
  });

  it('is known through links, also where it is still to be made', async () => {
    const dir = await scratch();
    await symlink('target', join(dir, 'link'));
    const refused = [
      [join(dir, 'link', 'overlays'), join(dir, 'target')],
      [join(dir, 'target', 'overlays'), join(dir, 'link')],
    ] as const;
    for (const each of refused)
      await expect(refuseOverlaysInTarget(...each)).rejects.toThrow(/is inside of the target/);
  });

  it('is in no other target either, which its catalog tells', async () => {
    const dir = await scratch();
    const other = join(dir, 'other');
    await mkdir(other);
    await writeCatalog(other, catalog([point(0, [entry('vd1', 'FULL-1.qcow2')])]));
    for (const target of [join(dir, 'target'), null]) {
      await expect(refuseOverlaysInTarget(join(other, 'overlays'), target)).rejects.toThrow(
        `is inside of the target ${other}`,
      );
    }
    expect(await refuseOverlaysInTarget(dir, null)).toBeNull();
  });
});
