import { execFileSync } from 'node:child_process';
import { mkdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { loadConfig } from '../../src/config/config-file.js';
import { labDir } from '../support/scenario.js';

// What is in the place of a configuration and is none: refused at once, and neither waited for nor loaded.

it('refuses what is no file of text, and names it', async () => {
  const dir = await labDir();
  const at = (name: string): string => join(dir, name);
  await mkdir(at('folder'));
  await symlink(at('loop'), at('loop'));
  execFileSync('mkfifo', [at('pipe')]);
  await writeFile(at('latin1'), Buffer.from('vms: { b\xfcro: {} }', 'latin1'));
  await writeFile(at('huge'), Buffer.alloc(17 * 1024 * 1024, '#'));
  await expect(loadConfig(at('folder'))).rejects.toThrow(/folder is no regular file/);
  await expect(loadConfig(at('pipe'))).rejects.toThrow(/pipe is no regular file/);
  await expect(loadConfig('/dev/zero')).rejects.toThrow(/\/dev\/zero is no regular file/);
  await expect(loadConfig(at('loop'))).rejects.toThrow(/too many symbolic links/);
  await expect(loadConfig(at('latin1'))).rejects.toThrow(/latin1 is not text in UTF-8/);
  await expect(loadConfig(at('huge'))).rejects.toThrow(/huge has 17825792 bytes, more than/);
  await expect(loadConfig(at('none'))).rejects.toThrow(/there is no configuration/);
});

it('takes a byte order mark, and the ends of lines of Windows', async () => {
  const file = join(await labDir(), 'config.yaml');
  await writeFile(file, '\uFEFFvms:\r\n  a: { socket: /s, target: /b }\r\n');
  expect([...(await loadConfig(file)).vms.keys()]).toEqual(['a']);
});
