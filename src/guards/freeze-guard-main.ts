/**
 * The guard's process. Its parent starts it in a session of its own, so that what ends the parent does not end it; the
 * signals by which a person or a service manager ends a whole group are ignored. Imports little: it has to start fast.
 */
import { Guard } from './freeze-and-thaw.js';

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);

// Nobody may be there to read: an error of stderr would come back as an uncaught one, without end.
process.stderr.on('error', () => undefined);

const guard = new Guard(process.stdin, process.stdout);

process.on('uncaughtException', (error) => {
  process.exitCode = 1;
  process.stderr.write(`${error.stack ?? error.message}\n`);
  guard.end('fault');
});
