import { join } from 'node:path';
import { describe as suite, expect, it } from 'vitest';
import { IOTHREAD_SHAPES, soakIothreads } from '../support/iothread-soak.js';
import { patient } from '../support/patience.js';
import { labDir } from '../support/scenario.js';

// The short form of `npm run soak -- --iothreads`.
suite('a guest that writes to disks in iothreads', () => {
  it.each(IOTHREAD_SHAPES)(
    'lives through fleeced and plain backups: %s',
    { timeout: patient(300_000) },
    async (shape) => {
      const dir = await labDir();
      for (const fleece of ['always', 'never']) {
        const options = { dir: join(dir, fleece), shape, runs: 8, how: ['--fleece', fleece] };
        const { writes } = await soakIothreads(options);
        for (const each of writes) expect(each).toBeGreaterThan(0);
      }
    },
  );
});
