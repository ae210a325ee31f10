import { readFileSync } from 'node:fs';

/** Where the kernel does not tell. */
const USUAL = 1024;

/** How many files this process, and each that it starts, may have open: Node raises the soft limit to the hard one. */
export function mostOpenFiles(): number {
  try {
    const [, soft] = /^Max open files\s+(\d+|unlimited)/m.exec(readFileSync('/proc/self/limits', 'utf8')) ?? [];
    return soft === 'unlimited' ? Infinity : Number(soft ?? USUAL);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return USUAL;
    throw error;
  }
}
