import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { firstInPath } from './first-in-path.js';
import { labDir } from './scenario.js';

/**
 * A virsh that answers as the real one was seen to, at moments that it cannot be made to choose: first in the PATH of this
 * test and of what it starts.
 */
export interface PretendVirsh {
  readonly dir: string;
  /** What it does from now on with that command: lines of a shell. A command without any says nothing. */
  answer(command: string, script: string): Promise<void>;
  /** The commands that it was given and had an answer to. */
  calls(): Promise<readonly string[]>;
}

export async function pretendVirsh(): Promise<PretendVirsh> {
  const dir = await labDir();
  const script = 'for word; do if [ -e "DIR/$word" ]; then echo "$word" >>DIR/calls; . "DIR/$word"; fi; done';
  await firstInPath('virsh', dir, script.replaceAll('DIR', dir));
  return {
    dir,
    answer: (command, lines) => writeFile(join(dir, command), `${lines}\n`),
    calls: async () => {
      const text = await readFile(join(dir, 'calls'), 'utf8').catch(() => '');
      return text.split('\n').filter(Boolean);
    },
  };
}
