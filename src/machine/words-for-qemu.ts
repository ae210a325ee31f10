import { optionsIn } from '../core/boot-command.js';
import { QmpBackupError } from '../errors.js';

/** What would leave the process that we started, or the guest, where nobody finds it. */
const NOT_OURS = ['daemonize', 'incoming', 'snapshot'];

/** Looks at what is given for QEMU after `--`. @throws QmpBackupError `usage` */
export function refuseWordsForQemu(words: readonly string[], verb: string): void {
  const [first] = words;
  if (first !== undefined && !first.startsWith('-')) {
    throw new QmpBackupError('usage', `${first} is no option of QEMU`, {
      hint: 'What comes after -- is for QEMU, and begins with an option, as in: -- -vnc :1',
    });
  }
  const refused = optionsIn(words).find((name) => NOT_OURS.includes(name));
  if (refused === undefined) return;
  throw new QmpBackupError('usage', `-${refused} does not go with ${verb}`, {
    hint: 'The VM is a process of its own already, and keeps what it writes in the overlays. Leave it out.',
  });
}
