import { isUtf8 } from 'node:buffer';
import { constants } from 'node:fs';
import { open, realpath } from 'node:fs/promises';
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
    return readConfig(await readText(file), file);
  } catch (error) {
    if (error instanceof QmpBackupError) throw error;
    if (codeOf(error) !== 'ENOENT') throw fileError('read the configuration', path, error);
    throw new QmpBackupError('usage', `there is no configuration ${path}`, {
      hint: `Make one: qmpbackup config example >${path}`,
      cause: error,
    });
  }
}

/** Bytes: of thousands of VMs it has no more. */
const LONGEST = 16 * 1024 * 1024;

/** A pipe or a device, which might never end, is not waited for. */
async function readText(file: string): Promise<string> {
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stats = await handle.stat();
    if (!stats.isFile()) throw wrong(file, 'is no regular file');
    if (stats.size > LONGEST) throw wrong(file, `has ${stats.size} bytes, more than the ${LONGEST} that it may have`);
    return decoded(await handle.readFile(), file);
  } finally {
    await handle.close();
  }
}

function decoded(bytes: Buffer, file: string): string {
  if (isUtf8(bytes)) return bytes.toString('utf8');
  throw wrong(file, 'is not text in UTF-8');
}

function wrong(file: string, words: string): QmpBackupError {
  return new QmpBackupError('usage', `the configuration ${file} ${words}`, {
    hint: 'qmpbackup config example prints one to begin with.',
  });
}

/** Root has none of its own unless it is there. */
async function usualFile(): Promise<string> {
  const home = process.env['XDG_CONFIG_HOME'];
  const folder = home !== undefined && isAbsolute(home) ? home : join(homedir(), '.config');
  const own = join(folder, 'qmpbackup', 'config.yaml');
  return (await isBehindLinks(own)) ? own : SYSTEM_CONFIG;
}
