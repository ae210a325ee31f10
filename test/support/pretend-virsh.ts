import { chmod, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterTest, labDir } from './scenario.js';

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
  const script =
    '#!/bin/bash\nfor word; do if [ -e "DIR/$word" ]; then echo "$word" >>DIR/calls; . "DIR/$word"; fi; done\n';
  await writeFile(join(dir, 'virsh'), script.replaceAll('DIR', dir));
  await chmod(join(dir, 'virsh'), 0o755);
  const path = process.env['PATH'] ?? '';
  process.env['PATH'] = `${dir}:${path}`;
  afterTest(() => Promise.resolve((process.env['PATH'] = path)));
  return {
    dir,
    answer: (command, lines) => writeFile(join(dir, command), `${lines}\n`),
    calls: async () => {
      const text = await readFile(join(dir, 'calls'), 'utf8').catch(() => '');
      return text.split('\n').filter(Boolean);
    },
  };
}
