import { readFile, realpath } from 'node:fs/promises';
import { homedir } from 'node:os';
import { isAbsolute, join, resolve } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { isBehindLinks } from '../host/is-there.js';
import type { Config } from './config.js';
import { readConfig } from './read-config.js';

/** The file of this host, or that of this user. */
const SYSTEM_CONFIG = '/etc/qmpbackup/config.yaml';

/** Reads the configuration: the file that was named, that of the user, or that of the host. @throws QmpBackupError `usage` */
export async function loadConfig(named: string | undefined): Promise<Config> {
  const path = resolve(named ?? (await usualFile()));
  try {
    // However it is called: one run at a time, and one history.
    const file = await realpath(path);
    return readConfig(await readFile(file, 'utf8'), file);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw fileError('read the configuration', path, error);
    throw new QmpBackupError('usage', `there is no configuration ${path}`, {
      hint: `Make one: qmpbackup config example >${path}`,
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
