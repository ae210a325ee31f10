import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Config } from '../config/config.js';
import type { MailNotifier, Notifier, PingNotifier, WebhookNotifier } from '../config/notifiers.js';
import { secretsOf } from '../config/notifiers.js';
import { headerText, webUrl } from '../config/read-notify.js';
import { readSecret, type Secret, secretOrigin } from '../config/secret.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { type Lock, lockConfig } from '../repository/lock.js';
import { type Attempt, type Delivered, failedNow, type Patience, refused, tryAgain } from './deliver/attempts.js';
import { request } from './deliver/http.js';
import { sendBySendmail, sendBySmtp } from './deliver/mail.js';
import { type PingKind, pingRequest, pingUrl } from './deliver/ping.js';
import { webhookRequest } from './deliver/webhook.js';
import { messageFor, type NotifyMessage, testMessage } from './message.js';
import { type Notified, type NotifierMemory, readNotified, writeNotified } from './notified-file.js';
import { isClean, type RunOutcome, standingOf } from './outcome.js';
import { NOTHING_REMEMBERED, type Occasion, whatIsTold } from './what-is-told.js';

/** Tells people how a run went. Nothing of it throws, or makes a backup fail: what cannot be told is in the answer. */
export interface NotifyContext {
  readonly now: () => Date;
  /** Ends soon what waits, once the program is told to end. */
  readonly signal: AbortSignal;
  readonly warn: (text: string) => void;
  readonly times: NotifyTimes;
}

/** Milliseconds. */
export interface NotifyTimes {
  /** For all that there is to tell. */
  readonly allMs: number;
  /** The same, once the program was told to end. */
  readonly lastMs: number;
  readonly attemptMs: number;
  readonly waitsMs: readonly number[];
}

export const NOTIFY_TIMES: NotifyTimes = {
  allMs: 60_000,
  lastMs: 10_000,
  attemptMs: 10_000,
  waitsMs: [1_000, 2_000, 4_000, 8_000, 16_000],
};

/** What one notifier was told. */
export interface Notification {
  readonly notifier: string;
  readonly kind: Notifier['kind'];
  readonly what: readonly (Occasion | PingKind | 'test')[];
  /** Why it was not, or not all that it names; null where it was. */
  readonly failed: string | null;
}

/** How long a run has to be kept away by another one until somebody hears of it. Milliseconds. */
const LOCKED_OUT_MS = 12 * 3_600_000;

/** Tells the dead-man switches that a run begins. The end waits for that, so it is given up early. */
export async function notifyOfStart(config: Config, context: NotifyContext): Promise<readonly Notification[]> {
  const pings = config.notify.filter((each) => each.kind === 'ping');
  const told = await withPatience(
    { ...context, times: { ...context.times, allMs: context.times.lastMs } },
    (patience) => Promise.all(pings.map((each) => ping(each, 'start', patience))),
  );
  return told.flatMap((each) => each ?? []);
}

/** After a run, however it ended: what each notifier has to hear, once. */
export async function notifyOfEnd(
  config: Config,
  outcome: RunOutcome,
  context: NotifyContext,
): Promise<readonly Notification[]> {
  if (config.notify.length === 0) return [];
  // A dead-man switch waits for a run of all.
  const notifiers = config.notify.filter(({ kind }) => kind !== 'ping' || outcome.isWhole);
  return withMemory(config.file, context, async (memory) => {
    await memory.keep({ lockedOutSince: null });
    return tellAll(notifiers, outcome, memory, context);
  });
}

/** Each at once, and each remembered as soon as it was told: who is killed while one hangs does not tell the others again. */
async function tellAll(
  notifiers: readonly Notifier[],
  outcome: RunOutcome,
  memory: Memory,
  context: NotifyContext,
): Promise<readonly Notification[]> {
  const pingKind = isClean(outcome) ? 'success' : 'fail';
  const told = await withPatience(context, (patience) =>
    Promise.all(
      notifiers.map(async (notifier) => {
        const before = memory.of(notifier.name);
        const { latest, notification } = await tell(notifier, outcome, before, {
          ...{ patience, pingKind, now: context.now() },
        });
        await memory.keep({ notifier: latest });
        return notification ?? [];
      }),
    ),
  );
  return told.flat();
}

/** A run that found another one at work: that is nothing to tell, unless it lasts. */
export async function notifyOfLockedOut(
  config: Config,
  outcome: RunOutcome,
  context: NotifyContext,
): Promise<readonly Notification[]> {
  if (config.notify.length === 0) return [];
  return withMemory(config.file, context, async (memory) => {
    const now = context.now().getTime();
    const known = Date.parse(memory.lockedOutSince ?? '');
    // A clock that went back would else take until then to say it.
    const since = known <= now ? known : now;
    await memory.keep({ lockedOutSince: new Date(since).toISOString() });
    if (now - since < LOCKED_OUT_MS) return [];
    // The run that is at work has its own word for the dead-man switches.
    const messengers = config.notify.filter((each) => each.kind !== 'ping');
    return tellAll(messengers, outcome, memory, context);
  });
}

/** Sends a test by each of `notifiers`, once: what fails is to be seen, not waited for. */
export async function notifyTest(
  config: Config,
  notifiers: readonly Notifier[],
  context: NotifyContext,
): Promise<readonly Notification[]> {
  const once = { ...context, times: { ...context.times, waitsMs: [] } };
  return withPatience(once, (patience) =>
    Promise.all(
      notifiers.map(async (notifier): Promise<Notification> => {
        const { name, kind } = notifier;
        if (notifier.kind === 'ping') {
          const told = await ping(notifier, 'success', patience);
          return told ?? { notifier: name, kind, what: ['test'], failed: null };
        }
        const message = testMessage({ config: config.file, host: hostname(), notifier: name, at: context.now() });
        return { notifier: name, kind, what: ['test'], failed: (await deliver(notifier, message, patience)).failed };
      }),
    ),
  );
}

interface Told {
  readonly latest: NotifierMemory;
  /** Null where there was nothing to tell. */
  readonly notification: Notification | null;
}

async function tell(
  notifier: Notifier,
  outcome: RunOutcome,
  before: NotifierMemory | undefined,
  { patience, pingKind, now }: { readonly patience: Patience; readonly pingKind: PingKind; readonly now: Date },
): Promise<Told> {
  const { name, kind } = notifier;
  const remembered = before ?? NOTHING_REMEMBERED;
  const broken = before?.broken ?? null;
  const brokenBy = (failed: string | null): NotifierMemory['broken'] =>
    failed === null ? null : { since: broken?.since ?? now.toISOString(), why: failed };
  if (notifier.kind === 'ping') {
    const notification = await ping(notifier, pingKind, patience);
    return { latest: { name, ...remembered, broken: brokenBy(notification?.failed ?? null) }, notification };
  }
  const telling = whatIsTold(notifier.rules, remembered, standingOf(outcome), now);
  if (telling.occasions.length === 0) return { latest: { name, ...telling.ifTold, broken }, notification: null };
  const message = messageFor(outcome, telling, { notifier: name, host: hostname() });
  const { told, failed } = await deliver(notifier, message, patience);
  return {
    latest: { name, ...(told ? telling.ifTold : telling.ifNot), broken: brokenBy(failed) },
    notification: { notifier: name, kind, what: telling.occasions, failed },
  };
}

/** Null where this switch has no address for that. */
async function ping(notifier: PingNotifier, kind: PingKind, patience: Patience): Promise<Notification | null> {
  const { name, urls } = notifier;
  const secret = urls.kind === 'one' ? urls.url : urls[kind];
  if (secret === null) return null;
  const { failed } = await withSecrets(notifier, patience, (secrets, signal) => {
    const url = secrets.get(secret) ?? '';
    return request(pingRequest(urls.kind === 'one' ? pingUrl(url, kind) : url), signal);
  });
  return { notifier: name, kind: 'ping', what: [kind], failed };
}

/** Servers let those wait whom they do not know before they greet them, longer than one who asks by HTTP should. */
const MAIL_PATIENCE = 3;

function deliver(
  notifier: MailNotifier | WebhookNotifier,
  message: NotifyMessage,
  given: Patience,
): Promise<Delivered> {
  const patience = notifier.kind === 'mail' ? { ...given, attemptMs: given.attemptMs * MAIL_PATIENCE } : given;
  return withSecrets(notifier, patience, (secrets, signal) => {
    if (notifier.kind === 'mail')
      return sendMail(notifier, message, secrets, { signal, attemptMs: patience.attemptMs });
    const { url, token, headers, shape } = notifier;
    const access = {
      url: secrets.get(url) ?? '',
      token: token && (secrets.get(token) ?? null),
      headers: Object.fromEntries([...headers].map(([name, secret]) => [name, secrets.get(secret) ?? ''])),
    };
    return request(webhookRequest(shape, access, message), signal);
  });
}

function sendMail(
  { by, from, to }: MailNotifier,
  message: NotifyMessage,
  secrets: Secrets,
  limits: { readonly signal: AbortSignal; readonly attemptMs: number },
): Promise<Attempt> {
  const mail = { from, to, message };
  if (by.kind === 'sendmail') return sendBySendmail(by.path, mail, limits);
  return sendBySmtp(by, by.login && (secrets.get(by.login.password) ?? null), mail, limits);
}

type Secrets = ReadonlyMap<Secret, string>;

/** Attempts with the secrets of a notifier, which are in no word of why it failed. */
async function withSecrets(
  notifier: Notifier,
  patience: Patience,
  step: (secrets: Secrets, signal: AbortSignal) => Promise<Attempt>,
): Promise<Delivered> {
  const secrets = new Map<Secret, string>();
  try {
    for (const { key, secret } of secretsOf(notifier))
      secrets.set(secret, proved(key, secret, await readSecret(secret)));
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { told: false, failed: `${error.message}${error.hint === undefined ? '' : ` (${error.hint})`}` };
  }
  const { told, failed } = await tryAgain(async (signal) => {
    try {
      return await step(secrets, signal);
    } catch (error) {
      return signal.aborted ? failedNow('it does not answer in time') : refused(messageOf(error));
    }
  }, patience);
  return { told, failed: failed === null ? null : cut(without([...secrets.values()], failed)) };
}

function proved(key: string, secret: Secret, text: string): string {
  const judge =
    key.startsWith('ping') || key === 'webhook' ? webUrl : key === 'smtp.password' ? () => null : headerText;
  const wrong = judge(text);
  if (wrong === null) return text;
  throw new QmpBackupError('usage', `${key}, from ${secretOrigin(secret)}, ${wrong}`);
}

/** A receiver may repeat what it was sent, or a part of it, and in a page of HTML. */
function without(secrets: readonly string[], text: string): string {
  const parts = secrets
    .flatMap(partsOf)
    .flatMap((part) => [part, { ...part, text: part.text.replaceAll('&', '&amp;') }]);
  const longestFirst = parts.filter((part) => part.text !== '').toSorted((a, b) => b.text.length - a.text.length);
  return longestFirst.reduce((all, part) => all.replaceAll(whereItStands(part), '***'), text);
}

interface SecretPart {
  readonly text: string;
  /** A name that an address has: it may be a word that is no secret at all. */
  readonly isName: boolean;
}

/** A short part, or a name that is a word of a language, is meant only where it stands by itself: it may begin a word of ours. */
function whereItStands({ text, isName }: SecretPart): RegExp {
  const literal = text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
  const isWord = isName && /^\/?\p{L}{1,11}$/u.test(text);
  if (text.length >= SHORTEST && !isWord) return new RegExp(literal, 'gu');
  const begin = /^[\p{L}\p{N}]/u.test(text) ? '(?<![\\p{L}\\p{N}])' : '';
  const end = /[\p{L}\p{N}]$/u.test(text) ? '(?![\\p{L}\\p{N}])' : '';
  return new RegExp(`${begin}${literal}${end}`, 'gu');
}

function partsOf(secret: string): readonly SecretPart[] {
  const asPart = (isName: boolean) => (text: string) => ({ text, isName });
  if (!URL.canParse(secret)) return [secret, ...secret.split(' ').filter(isLongEnough)].map(asPart(false));
  const { pathname, search, searchParams } = new URL(secret);
  const names = pathname.split('/');
  const values = [secret, search.slice(1), ...searchParams.values()].filter(isLongEnough);
  const ofPath = [`${pathname}${search}`, ...names, ...names.map(decoded)].filter(isLongEnough);
  return [...values.map(asPart(false)), ...ofPath.map(asPart(true))];
}

/** Of an address that is none: as it is. */
function decoded(name: string): string {
  try {
    return decodeURIComponent(name);
  } catch (error) {
    if (error instanceof URIError) return name;
    throw error;
  }
}

/** Characters: a shorter part is no secret. */
const SHORTEST = 5;

function isLongEnough(part: string): boolean {
  return part.length >= SHORTEST;
}

/** Characters of a reason, counted when no secret is in it any more: half of one would be told else. */
const MOST_WHY = 300;

function cut(text: string): string {
  return text.length > MOST_WHY ? `${text.slice(0, MOST_WHY)} ...` : text;
}

/** With a deadline that a signal to the program brings near. */
async function withPatience<T>({ signal, times }: NotifyContext, step: (patience: Patience) => Promise<T>): Promise<T> {
  const over = new AbortController();
  const end = (): void => over.abort();
  const timers = [setTimeout(end, times.allMs)];
  const hurry = (): void => void timers.push(setTimeout(end, times.lastMs));
  if (signal.aborted) hurry();
  else signal.addEventListener('abort', hurry, { once: true });
  try {
    return await step({ signal: over.signal, waitsMs: times.waitsMs, attemptMs: times.attemptMs });
  } finally {
    timers.forEach(clearTimeout);
    signal.removeEventListener('abort', hurry);
  }
}

/** What was told before, and is from now on. */
interface Memory {
  readonly lockedOutSince: string | null;
  readonly of: (notifier: string) => NotifierMemory | undefined;
  /** Durably. What cannot be kept is warned of. */
  readonly keep: (latest: {
    readonly notifier?: NotifierMemory;
    readonly lockedOutSince?: string | null;
  }) => Promise<void>;
}

/** One process at a time, also beside a run that is at work: a message must not be told twice. */
async function withMemory(
  config: string,
  context: NotifyContext,
  step: (memory: Memory) => Promise<readonly Notification[]>,
): Promise<readonly Notification[]> {
  let lock: Lock;
  try {
    lock = await lockMemory(config, context);
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    context.warn(`nobody was told of this run: ${error.message}`);
    return [];
  }
  try {
    const { notified, lost } = await readNotified(config);
    if (lost !== null) context.warn(`what was told before is not known: ${lost}`);
    return await step(memoryOf(config, notified, context));
  } finally {
    await lock.release();
  }
}

function memoryOf(config: string, notified: Notified, { warn }: NotifyContext): Memory {
  let known = notified;
  let kept = Promise.resolve();
  let warned = false;
  const lost = (error: unknown): void => {
    if (!warned) warn(`what was told is not remembered, and is told again: ${messageOf(error)}`);
    warned = true;
  };
  return {
    lockedOutSince: notified.lockedOutSince,
    of: (notifier) => notified.notifiers.find(({ name }) => name === notifier),
    keep: ({ notifier, lockedOutSince = known.lockedOutSince }) => {
      // Of one that is no longer there, or not yet again, it is kept, too.
      const others = known.notifiers.filter(({ name }) => name !== notifier?.name);
      known = { notifiers: notifier ? [...others, notifier] : others, lockedOutSince };
      // One at a time, each with all that is known by then.
      kept = kept.then(() => writeNotified(config, known)).catch(lost);
      return kept;
    },
  };
}

const TURN_MS = 200;

async function lockMemory(config: string, { times }: NotifyContext): Promise<Lock> {
  const until = performance.now() + times.allMs;
  for (;;) {
    try {
      return await lockConfig(`${config} (notifications)`, { breakLock: false, purpose: `notifications of ${config}` });
    } catch (error) {
      if (!(error instanceof QmpBackupError) || error.code !== 'locked' || performance.now() > until) throw error;
    }
    await sleep(TURN_MS);
  }
}
