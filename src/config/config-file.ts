import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { isBehindLinks } from '../host/is-there.js';
import type { Config } from './config.js';
import { readConfig } from './read-config.js';

/** The file of this host, or that of this user. */
export const SYSTEM_CONFIG = '/etc/qmpbackup/config.yaml';

/** Reads the configuration: the file that was named, that of the user, or that of the host. @throws QmpBackupError `usage` */
export async function loadConfig(named: string | undefined): Promise<Config> {
  const file = resolve(named ?? (await usualFile()));
  return readConfig(await textOf(file), file);
}

async function textOf(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw fileError('read the configuration', file, error);
    throw new QmpBackupError('usage', `there is no configuration ${file}`, {
      hint: `Make one: qmpbackup config example >${file}`,
      cause: error,
    });
  }
}

/** Root has none of its own unless it is there. */
async function usualFile(): Promise<string> {
  const home = process.env['XDG_CONFIG_HOME'];
  const folder = home !== undefined && isAbsolute(home) ? home : join(homedir(), '.config');
  const own = join(folder, 'qmpbackup', 'config.yaml');
  return (await isBehindLinks(own)) ? own : SYSTEM_CONFIG;
}
