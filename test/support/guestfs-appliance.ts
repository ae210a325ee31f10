import { existsSync } from 'node:fs';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { projectRoot, run } from './lab/programs.js';

/**
 * What libguestfs needs to start its appliance here: the kernel of the test guest, which is unpacked into the cache and never installed,
 * and no KVM, which may be there and not work.
 */
export async function guestfsEnv(): Promise<Readonly<Record<string, string>>> {
  await run(join(projectRoot(), 'scripts/build-guest'), []);
  const cache = process.env['QMPBACKUP_CACHE'] ?? join(projectRoot(), '.cache');
  const kernel = join(cache, 'appliance-kernel');
  if (!existsSync(kernel)) {
    const packages = join(cache, 'guest-packages');
    const deb = (await readdir(packages)).find((name) => name.startsWith('linux-image-') && name.endsWith('.deb'));
    if (deb === undefined) throw new Error(`there is no kernel in ${packages}`);
    const fresh = `${kernel}.${process.pid}`;
    await run('dpkg-deb', ['-x', join(packages, deb), fresh]);
    const [version = ''] = await readdir(join(fresh, 'lib/modules'));
    await run('depmod', ['-b', fresh, version]);
    await rename(fresh, kernel).catch(() => rm(fresh, { recursive: true }));
  }
  const [version = ''] = await readdir(join(kernel, 'lib/modules'));
  const appliance = join(cache, 'appliance');
  await mkdir(appliance, { recursive: true });
  // supermin looks for that folder, whatever it is told.
  await mkdir('/lib/modules', { recursive: true });
  return {
    LIBGUESTFS_BACKEND: 'direct',
    LIBGUESTFS_BACKEND_SETTINGS: 'force_tcg',
    LIBGUESTFS_CACHEDIR: appliance,
    SUPERMIN_KERNEL: join(kernel, 'boot', `vmlinuz-${version}`),
    SUPERMIN_MODULES: join(kernel, 'lib/modules', version),
  };
}

/** A session of guestfish that writes to raw images. Throws, with its words, where a command fails. */
export async function guestfish(
  images: readonly string[],
  commands: readonly string[],
  env: NodeJS.ProcessEnv,
): Promise<void> {
  const drives = images.flatMap((image) => ['--format=raw', '--add', image]);
  const input = ['run', ...commands].join('\n');
  await execa('guestfish', drives, { input, env });
}
