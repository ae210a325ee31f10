import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import type * as Nodemailer from 'nodemailer';
import type { SmtpServer } from '../../config/notifiers.js';
import { messageOf } from '../../errors.js';
import { runProgram } from '../../host/program.js';
import type { NotifyMessage } from '../message.js';
import { type Attempt, DELIVERED, deliveredBut, failedNow, refused } from './attempts.js';
import { whyNotTrusted } from './certificate.js';

export interface Mail {
  /** Null is for the sendmail program to say. */
  readonly from: string | null;
  readonly to: readonly string[];
  readonly message: NotifyMessage;
}

/** Read when a mail is sent: few runs send one (docs/decisions/0001). */
function nodemailer(): Promise<typeof Nodemailer> {
  return import('nodemailer');
}

function contentOf({ subject, text, id, document }: NotifyMessage) {
  return {
    ...{ subject, text },
    // A mail that comes twice is one to those that compare these.
    messageId: `<${id}@${hostname()}>`,
    headers: { 'Auto-Submitted': 'auto-generated', 'X-Qmpbackup-Occasions': document.occasions.join(', ') },
    // Nothing in a message is the name of a file or address that is to be fetched.
    ...{ disableFileAccess: true, disableUrlAccess: true },
  };
}

/** By a server, with TLS unless the configuration says otherwise. */
export async function sendBySmtp(
  server: SmtpServer,
  password: string | null,
  mail: Mail,
  { signal, attemptMs }: { readonly signal: AbortSignal; readonly attemptMs: number },
): Promise<Attempt> {
  const { host, port, tls, login, ca } = server;
  const { createTransport } = await nodemailer();
  let trusted: string | null;
  try {
    trusted = ca === null ? null : await readFile(ca, 'utf8');
  } catch (error) {
    return refused(`the certificates ${ca} cannot be read: ${messageOf(error)}`);
  }
  const transport = createTransport({
    ...{ host, port, secure: tls === 'implicit', requireTLS: tls === 'starttls', ignoreTLS: tls === 'none' },
    ...(login === null || password === null ? {} : { auth: { user: login.user, pass: password } }),
    tls: { minVersion: 'TLSv1.2', ...(trusted === null ? {} : { ca: trusted }) },
    ...{ connectionTimeout: attemptMs, greetingTimeout: attemptMs, socketTimeout: attemptMs, dnsTimeout: attemptMs },
  });
  const end = (): void => transport.close();
  signal.addEventListener('abort', end, { once: true });
  try {
    const { rejectedErrors = [] } = await Promise.race([
      transport.sendMail({ ...contentOf(mail.message), from: mail.from ?? '', to: [...mail.to] }),
      rejectedBy(signal),
    ]);
    if (rejectedErrors.length === 0) return DELIVERED;
    return deliveredBut(`${host}:${port}: ${rejectedErrors.map(refusalOf).join('; ')}; the others were told`);
  } catch (error) {
    const untrusted = whyNotTrusted(error, 'name the one who has signed it by ca: FILE');
    if (untrusted !== null) return refused(`${host}:${port}: ${untrusted}`);
    const why = `${host}:${port}: ${signal.aborted ? 'it does not answer in time' : messageOf(error)}`;
    return isForGood(error) ? refused(why) : failedNow(why);
  } finally {
    signal.removeEventListener('abort', end);
    transport.close();
  }
}

/** A server may take a mail for some receivers and refuse it for others. */
function refusalOf({ recipient, response, message }: Nodemailer.NodemailerError): string {
  return `${recipient ?? 'a receiver'} was refused: ${response ?? message}`;
}

function rejectedBy(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true });
  });
}

/** What a server refuses by 5xx it refuses again, a wrong password among it. */
function isForGood(error: unknown): boolean {
  const { responseCode, code } = error as { readonly responseCode?: number; readonly code?: string };
  if (typeof responseCode === 'number') return responseCode >= 500;
  return ['EAUTH', 'ENOAUTH', 'EENVELOPE', 'ETLS'].includes(code ?? '');
}

/** By the sendmail program, which takes the mail on its stdin: its arguments name nobody. */
export async function sendBySendmail(
  path: string,
  mail: Mail,
  { signal, attemptMs }: { readonly signal: AbortSignal; readonly attemptMs: number },
): Promise<Attempt> {
  const { createTransport } = await nodemailer();
  const transport = createTransport({ streamTransport: true, buffer: true, newline: 'unix' });
  const composed = await transport.sendMail(contentOf(mail.message));
  // By nodemailer `root` is no address; to the program it is one.
  const whose = mail.from === null ? '' : `From: ${mail.from}\n`;
  const text = `${whose}To: ${mail.to.join(', ')}\n${(composed.message as Buffer).toString('utf8')}`;
  const end = await runProgram(path, ['-i', '-t'], { stdin: { text }, signal, timeoutMs: attemptMs });
  if (end.exitCode === 0) return DELIVERED;
  if (end.failure) return refused(`${path} could not be started: ${messageOf(end.failure)}`);
  if (end.late || signal.aborted) return failedNow(`${path} did not end in time`);
  const words = end.stderr.trim().slice(-300);
  return failedNow(`${path} ended with ${end.exitCode ?? end.signal}${words === '' ? '' : `: ${words}`}`);
}
