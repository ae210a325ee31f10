import { stat } from 'node:fs/promises';
import { run } from './lab/programs.js';
import { afterTest } from './scenario.js';

/** A block device of so many bytes, each of them 0xff: what is not written over shows. Needs root. */
export async function loopDevice(file: string, bytes: number): Promise<string> {
  await run('sh', ['-c', `head -c ${bytes} /dev/zero | tr '\\0' '\\377' > "$0"`, file]);
  const device = (await run('losetup', ['--find', '--show', file])).stdout.trim();
  afterTest(() => run('losetup', ['-d', device]));
  if (!(await stat(device)).isBlockDevice()) throw new Error(`${device} is no block device`);
  return device;
}
