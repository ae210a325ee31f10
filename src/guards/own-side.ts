/** A guard's process as it sees itself: its task, its owner, and what they say to each other. Imports little: it has to start fast. */
import * as v from 'valibot';
import { formatJsonLine } from '../qmp/json-lines.js';
import { type Handlers, type Message, messageReader } from './messages.js';

/**
 * First of all in a guard's program: makes it deaf to the signals by which a person or a service manager ends a whole
 * group, and returns its task.
 */
export function beginGuard<Task>(schema: v.GenericSchema<unknown, Task>): Task {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
  // Nobody may be there to read: an error of stderr would come back as an uncaught one, without end.
  process.stdout.on('error', () => undefined);
  process.stderr.on('error', () => undefined);
  return v.parse(schema, JSON.parse(process.argv[2] ?? 'null'));
}

/** Calls `onGone` once: the owner has released this guard, or is gone, however it died, or mad: it says what cannot be read. */
export function hearOwner<To extends Message>(on: Handlers<To>, onGone: () => void): void {
  const read = messageReader(on);
  let gone = false;
  const end = (): void => {
    if (!gone) onGone();
    gone = true;
  };
  process.stdin.on('data', (chunk: Buffer) => {
    try {
      read(chunk);
    } catch {
      process.stdin.destroy();
    }
  });
  process.stdin.on('error', end).on('end', end).on('close', end);
}

export function tellOwner(message: Message): void {
  process.stdout.write(formatJsonLine(message));
}

/** From now on nothing that its owner may say, or hear, keeps this process alive. */
export function leaveOwner(): void {
  process.stdin.destroy();
  process.stdout.end();
}
