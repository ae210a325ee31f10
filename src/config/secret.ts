import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { isAbsolute, join } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import type { Place } from './place.js';

/** What nobody else shall know: the configuration has it, or says where it is. Read when it is used, and shown nowhere. */
export interface Secret {
  readonly place: Place;
  readonly source:
    | { readonly kind: 'config'; readonly text: string }
    /** Absolute path. */
    | { readonly kind: 'file'; readonly path: string }
    /** Of the systemd unit (`LoadCredential=`). */
    | { readonly kind: 'credential'; readonly name: string };
}

/** Where it comes from, which is all that is ever said of it. */
export function secretOrigin({ place, source }: Secret): string {
  switch (source.kind) {
    case 'config':
      return `line ${place.line}`;
    case 'file':
      return `file ${source.path}`;
    case 'credential':
      return `credential ${source.name}`;
  }
}

/** Bytes. */
const LONGEST = 64 * 1024;

/**
 * The secret itself, without the end of its line.
 *
 * @throws QmpBackupError `usage` where it is not there, `unsafe` where everybody may read it
 */
export async function readSecret(secret: Secret, env: NodeJS.ProcessEnv = process.env): Promise<string> {
  const { source } = secret;
  switch (source.kind) {
    case 'config':
      return source.text;
    case 'file':
      return readSecretFile(source.path);
    case 'credential': {
      const folder = env['CREDENTIALS_DIRECTORY'];
      if (folder !== undefined && isAbsolute(folder)) return readSecretFile(join(folder, source.name));
      throw new QmpBackupError('usage', `there is no credential ${source.name}: $CREDENTIALS_DIRECTORY is not set`, {
        hint: `Only a systemd unit has credentials: LoadCredential=${source.name}:FILE. Elsewhere name the file.`,
      });
    }
  }
}

/** A link is followed: those who keep secrets hand them out by links. */
async function readSecretFile(path: string): Promise<string> {
  try {
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      if (!stats.isFile()) throw new QmpBackupError('unsafe', `${path} is no regular file`);
      if (isOpenToAll(stats.mode)) {
        throw new QmpBackupError('unsafe', `everybody may read or change the secret ${path}`, {
          hint: `chmod o= ${path}, and change the secret: it may be known.`,
        });
      }
      if (stats.size > LONGEST) throw new QmpBackupError('usage', `${path} is too long for a secret`);
      const text = (await handle.readFile('utf8')).replace(/[\r\n]+$/, '');
      if (text === '') throw new QmpBackupError('usage', `the secret ${path} is empty`);
      return text;
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (codeOf(error) === 'ENOENT') throw new QmpBackupError('usage', `there is no secret ${path}`, { cause: error });
    throw fileError('read the secret', path, error);
  }
}

/** Whether others than the owner and the group may do anything with it. */
export function isOpenToAll(mode: number): boolean {
  return (mode & 0o007) !== 0;
}
