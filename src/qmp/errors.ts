/**
 * What can go wrong on a monitor connection:
 *   QmpBackupError ─┬─ QmpUnreachable ─┬─ QmpNotGreeted · QmpNotQmp     (unreachable: never became a QMP connection)
 *                   ├─ QmpConnectionLost                                (unreachable: was one, is gone)
 *                   ├─ QmpTimeout · QmpCommandError · QmpProtocolError · QmpStateError · LineError   (failed)
 *                   └─ QmpInterrupted                                   (interrupted: by the caller's signal)
 */
import { messageOf, QmpBackupError } from '../errors.js';

/** No connection, or one that never became a QMP session. `errno` is the system's code where there is one. */
export class QmpUnreachable extends QmpBackupError {
  readonly errno: string | undefined;

  constructor(
    message: string,
    options: { readonly errno?: string; readonly hint?: string; readonly cause?: unknown } = {},
  ) {
    super('unreachable', message, options);
    this.errno = options.errno;
  }
}

/** Connected, but no greeting came: QEMU's monitor serves one client at a time and lets the others wait unanswered. */
export class QmpNotGreeted extends QmpUnreachable {
  constructor(where: string, timeoutMs: number) {
    super(
      `${where} accepted the connection but sent no QMP greeting within ${seconds(timeoutMs)}; ` +
        'another client probably holds the monitor, which serves one client at a time',
      {
        hint:
          'close the other client (another backup tool, a qmp-shell, libvirt) or give the VM a second monitor; ' +
          'if nobody is connected, QEMU may be stopped, or this is the socket of something else, as of the guest agent',
      },
    );
  }
}

/** Something answered, but not with a QMP greeting. */
export class QmpNotQmp extends QmpUnreachable {
  constructor(where: string, excerpt: string, options: { readonly cause?: unknown } = {}) {
    const isHumanMonitor = excerpt.includes("type 'help'") || excerpt.includes('(qemu)');
    super(
      `${where} is not a QMP monitor: it answered ${excerpt === '' ? 'an empty message' : JSON.stringify(excerpt)}`,
      {
        ...options,
        hint: isHumanMonitor
          ? 'this is the monitor for people (-monitor); give the VM a QMP one, as -qmp unix:PATH,server=on,wait=off'
          : 'give the socket of -qmp (or -mon ...,mode=control)',
      },
    );
  }
}

/** The connection ended. With `pendingCommand` a command was under way, and whether it was done is unknown. */
export class QmpConnectionLost extends QmpBackupError {
  readonly pendingCommand: string | undefined;
  /** True when this program closed the connection itself. */
  readonly closedByUs: boolean;

  constructor(
    where: string,
    reason: string,
    options: { readonly pendingCommand?: string; readonly closedByUs?: boolean; readonly cause?: unknown } = {},
  ) {
    const { pendingCommand, closedByUs = false } = options;
    super(
      'unreachable',
      pendingCommand === undefined
        ? `connection to ${where} lost: ${reason}`
        : `connection to ${where} lost before '${pendingCommand}' was answered, so its outcome is unknown: ${reason}`,
      {
        ...(options.cause === undefined ? {} : { cause: options.cause }),
        ...(closedByUs ? {} : { hint: 'check whether the VM is still running, then run the command again' }),
      },
    );
    this.pendingCommand = pendingCommand;
    this.closedByUs = closedByUs;
  }
}

/**
 * A command was not answered in time. It may still be carried out: `lateReply` settles as `execute` would have, when
 * the answer comes or the connection ends, and may be ignored.
 */
export class QmpTimeout extends QmpBackupError {
  readonly command: string;
  readonly timeoutMs: number;
  readonly lateReply: Promise<unknown>;

  constructor(command: string, timeoutMs: number, lateReply: Promise<unknown>) {
    super('failed', `QEMU did not answer '${command}' within ${seconds(timeoutMs)}; its outcome is unknown`, {
      hint: 'QEMU or its storage may be hanging; look at the VM before trying again',
    });
    this.command = command;
    this.timeoutMs = timeoutMs;
    this.lateReply = lateReply;
  }
}

/** QEMU refused a command. `errorClass` and `desc` are its own words. */
export class QmpCommandError extends QmpBackupError {
  readonly command: string;
  readonly errorClass: string;
  readonly desc: string;

  constructor(command: string, errorClass: string, desc: string) {
    super('failed', `QEMU refused '${command}': ${desc}`);
    this.command = command;
    this.errorClass = errorClass;
    this.desc = desc;
  }
}

/** The peer broke the protocol, or its reply has not the shape that QEMU documents. */
export class QmpProtocolError extends QmpBackupError {
  constructor(message: string, options: { readonly hint?: string; readonly cause?: unknown } = {}) {
    super('failed', message, options);
  }
}

/** A call that makes no sense in the present state: a mistake of this program. */
export class QmpStateError extends QmpBackupError {
  constructor(message: string) {
    super('failed', message);
  }
}

/**
 * The caller's signal ended the wait. With `lateReply` the command had been sent and may still be carried out; it is
 * undefined when nothing was sent.
 */
export class QmpInterrupted extends QmpBackupError {
  readonly lateReply: Promise<unknown> | undefined;

  constructor(what: string, reason: unknown, lateReply?: Promise<unknown>) {
    super('interrupted', `${what} was interrupted: ${messageOf(reason)}`, { cause: reason });
    this.lateReply = lateReply;
  }
}

/** Bytes that are no line of JSON. `excerpt` is the start of what came, for people. */
export class LineError extends QmpBackupError {
  readonly kind: 'too-long' | 'not-json';
  readonly excerpt: string;

  constructor(
    kind: 'too-long' | 'not-json',
    message: string,
    options: { readonly excerpt: string; readonly cause?: unknown },
  ) {
    super('failed', message, options);
    this.kind = kind;
    this.excerpt = options.excerpt;
  }
}

function seconds(ms: number): string {
  return ms % 1000 === 0 ? `${ms / 1000} s` : `${ms} ms`;
}
