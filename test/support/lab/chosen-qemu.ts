/**
 * QMPBACKUP_TEST_QEMU chooses the QEMU of the tests: unset, that of the host; 10, the one of scripts/install-qemu10,
 * which is fetched where it is missing: no test is ever skipped for it. Importing this file puts it in front of PATH
 * for this process and all that it starts, so that tool and tests use one and the same, its qemu-img too.
 */
import { execFileSync } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { projectRoot } from './project-root.js';

const chosen = process.env.QMPBACKUP_TEST_QEMU ?? '';
if (chosen === '10') {
  const script = join(projectRoot(), 'scripts/install-qemu10');
  const bin = execFileSync(script, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] }).trim();
  const path = process.env.PATH ?? '';
  if (path.split(delimiter)[0] !== bin) process.env.PATH = `${bin}${delimiter}${path}`;
} else if (chosen !== '') {
  throw new Error(`QMPBACKUP_TEST_QEMU=${chosen}: only 10 is known; unset it for the QEMU of this host`);
}
