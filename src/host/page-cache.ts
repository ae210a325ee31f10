import { messageOf, QmpBackupError } from '../errors.js';
import { runProgram } from './program.js';

const DROP_MS = 600_000;

/**
 * Has the kernel forget what it holds of a file or device that was flushed, so that whoever reads it next reads what its storage
 * has. By dd, since Node has no such call; a file system that is all memory keeps it, and has nothing else.
 */
export async function dropFromCache(path: string): Promise<void> {
  const args = [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'];
  const { exitCode, stderr, failure } = await runProgram('dd', args, { timeoutMs: DROP_MS });
  if (exitCode === 0) return;
  const words = failure ? messageOf(failure) : stderr.trim();
  throw new QmpBackupError('failed', `${path} cannot be read from its storage: ${words}`);
}
