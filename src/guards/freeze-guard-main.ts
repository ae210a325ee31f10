/** The freeze guard's process. Imports little: it has to start fast. */
import { Guard } from './freeze-and-thaw.js';
import { freezeTask } from './freeze-guard-messages.js';
import { beginGuard, hearOwner } from './own-side.js';

const guard = new Guard(beginGuard(freezeTask));

process.on('uncaughtException', (error) => {
  process.exitCode = 1;
  process.stderr.write(`${error.stack ?? error.message}\n`);
  guard.end('fault');
});

hearOwner(guard.orders, () => guard.end('parent-gone'));
