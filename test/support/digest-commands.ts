import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { type DigestMethod, PIECE_BYTES } from '../../src/core/pieces.js';

/** As decision 24 has them. */
const KEY = Buffer.from('qmpbackup digest').toString('hex');
const GMAC = `openssl mac -cipher AES-128-GCM -macopt hexkey:${KEY} -macopt hexiv:${'0'.repeat(24)} GMAC`;
const COMMANDS: Record<DigestMethod, string> = {
  gmac: `split -b ${PIECE_BYTES} --filter='${GMAC}' "$0" | tr A-F a-f`,
  sha256: `split -b ${PIECE_BYTES} --filter=sha256sum "$0" | cut -c-64`,
};

/** The list of the pieces of a file, by coreutils and OpenSSL. */
export async function listByCommands(path: string, method: DigestMethod): Promise<string> {
  return (await promisify(execFile)('sh', ['-c', COMMANDS[method], path])).stdout;
}
