import { isAbsolute } from 'node:path';
import { isMap, isScalar, type Node } from 'yaml';
import { choice, type OptionRule, portNumber, word, words } from '../core/option-rules.js';
import { timeOfDay, timeSpan } from '../core/time-span.js';
import { QmpBackupError } from '../errors.js';
import {
  type Notifier,
  NOTIFY_ON,
  type NotifyOn,
  type NotifyRules,
  type PingUrls,
  SMTP_TLS,
  type SmtpServer,
  WEBHOOK_SHAPES,
} from './notifiers.js';
import type { Secret } from './secret.js';
import { type Entry, isNothing, type YamlReader } from './yaml-reader.js';

/** The keys of a notifier beside the one that says its kind, and what each kind takes. */
const OF_A_MESSAGE = ['on', 'remind', 'digest-at'];
export const NOTIFIER_KEYS = {
  sendmail: ['from', 'to', ...OF_A_MESSAGE],
  smtp: ['from', 'to', ...OF_A_MESSAGE],
  webhook: ['shape', 'token', 'headers', ...OF_A_MESSAGE],
  ping: [],
} as const satisfies Record<string, readonly string[]>;
export const SMTP_KEYS = ['host', 'port', 'tls', 'user', 'password', 'ca'] as const;

type Kind = keyof typeof NOTIFIER_KEYS;
const KINDS = Object.keys(NOTIFIER_KEYS) as readonly Kind[];
const KNOWN = ['name', ...KINDS, ...new Set(Object.values(NOTIFIER_KEYS).flat())];

/** Minutes after midnight. */
const DIGEST_AT = 8 * 60;

export function notifiersIn(reader: YamlReader, node: Node | null): readonly Notifier[] {
  const seen = new Set<string>();
  return reader.items(node, 'notify').flatMap((item, index) => {
    const found = notifierIn(reader, item, `notify[${index}]`, seen);
    if (found === null) return [];
    seen.add(found.name);
    return [found];
  });
}

function notifierIn(reader: YamlReader, node: Node | null, path: string, seen: ReadonlySet<string>): Notifier | null {
  const place = reader.placeOf(node);
  const entries = new Map(reader.entries(node, path, KNOWN).map((entry) => [entry.key, entry]));
  const kinds = KINDS.filter((each) => entries.has(each));
  const [kind] = kinds;
  if (kind === undefined || kinds.length > 1) {
    reader.complain(place, path, `needs one of ${KINDS.join(', ')}`);
    return null;
  }
  const taken: readonly string[] = ['name', kind, ...NOTIFIER_KEYS[kind]];
  for (const entry of entries.values()) {
    if (!taken.includes(entry.key)) reader.complain(entry.place, `${path}.${entry.key}`, `does not go with ${kind}`);
  }
  const keys = new Keys(reader, entries, path);
  const name = keys.read('name', NAME) ?? unusedName(kind, seen);
  if (seen.has(name)) reader.complain(place, `${path}.name`, `is that of another notifier: ${name}`);
  switch (kind) {
    case 'ping': {
      const urls = pingIn(keys);
      return urls && { kind: 'ping', name, place, urls };
    }
    case 'webhook': {
      const url = keys.secret('webhook', webUrl);
      const token = keys.has('token') ? keys.secret('token', headerText) : null;
      const headers = headersIn(keys);
      const shape = keys.read('shape', choice('shape', WEBHOOK_SHAPES, 'json')) ?? 'json';
      return url && { kind: 'webhook', name, place, url, token, headers, shape, rules: rulesIn(keys) };
    }
    case 'sendmail':
    case 'smtp': {
      const by = kind === 'smtp' ? smtpIn(keys.below('smtp', SMTP_KEYS)) : sendmailIn(keys);
      const from = keys.read('from', ADDRESS) ?? null;
      const to = keys.read('to', ADDRESSES) ?? [];
      if (to.length === 0) reader.complain(place, `${path}.to`, 'has to be given: who gets the mail');
      if (kind === 'smtp' && from === null)
        reader.complain(place, `${path}.from`, 'has to be given: whose the mail is');
      if (kind === 'smtp' && [...to, from ?? '@'].some((each) => !each.includes('@'))) {
        reader.complain(place, path, 'has an address without @: only a sendmail program knows those of this host');
      }
      return by && { kind: 'mail', name, place, by, from, to, rules: rulesIn(keys) };
    }
  }
}

/** `webhook`, `webhook-2`. */
function unusedName(kind: Kind, seen: ReadonlySet<string>): string {
  for (let count = 1; ; count += 1) {
    const name = count === 1 ? kind : `${kind}-${count}`;
    if (!seen.has(name)) return name;
  }
}

function rulesIn(keys: Keys): NotifyRules {
  return {
    on: keys.read('on', EVENTS) ?? ['failure', 'recovery'],
    remindDays: keys.read('remind', timeSpan('remind')) ?? null,
    digestAt: keys.read('digest-at', timeOfDay('digest-at')) ?? DIGEST_AT,
  };
}

function sendmailIn(keys: Keys): { readonly kind: 'sendmail'; readonly path: string } | null {
  const path = keys.read('sendmail', ABSOLUTE);
  return path === undefined ? null : { kind: 'sendmail', path };
}

const PORTS = { implicit: 465, starttls: 587, none: 25 } as const;

function smtpIn(keys: Keys): SmtpServer | null {
  const host = keys.needed('host', word('host')) ?? null;
  const given = keys.read('port', portNumber('port')) ?? null;
  const tls =
    keys.read('tls', choice('tls', SMTP_TLS, undefined)) ?? (given === null || given === 465 ? 'implicit' : 'starttls');
  const user = keys.read('user', word('user')) ?? null;
  const password = keys.has('password') ? keys.secret('password', () => null) : null;
  const ca = keys.read('ca', ABSOLUTE) ?? null;
  if ((user === null) !== !keys.has('password')) keys.complain('needs both of user and password, or none');
  if (tls === 'none' && keys.has('password')) keys.complain('has a password and tls: none, which would show it to all');
  const login = user !== null && password !== null ? { user, password } : null;
  return host === null ? null : { kind: 'smtp', host, port: given ?? PORTS[tls], tls, login, ca };
}

function pingIn(keys: Keys): PingUrls | null {
  if (!keys.isSection('ping', ['start', 'success', 'fail'])) {
    const url = keys.secret('ping', webUrl);
    return url && { kind: 'one', url };
  }
  const each = keys.below('ping', ['start', 'success', 'fail']);
  const optional = (key: string): Secret | null => (each.has(key) ? each.secret(key, webUrl) : null);
  const success = each.secret('success', webUrl);
  return success && { kind: 'each', start: optional('start'), success, fail: optional('fail') };
}

function headersIn(keys: Keys): ReadonlyMap<string, Secret> {
  if (!keys.has('headers')) return new Map();
  const below = keys.below('headers', null);
  return new Map(
    below.names().flatMap((name) => {
      if (!/^[!#$%&'*+.^_`|~\w-]+$/.test(name))
        below.complain(`has no header that could be called ${JSON.stringify(name)}`);
      const secret = below.secret(name, headerText);
      return secret === null ? [] : [[name, secret] as const];
    }),
  );
}

// --- values ---------------------------------------------------------------------------------------------------------

/** A rule that turns down what `isRight` does not take. */
function textLike(isRight: (text: string) => boolean, hint: string): OptionRule<string, string | null> {
  const read = (given: string): string => {
    if (typeof given === 'string' && isRight(given)) return given;
    throw new QmpBackupError('usage', hint);
  };
  return { flag: '', fallback: null, read };
}

const NAME = textLike((text) => /^[\w.-]{1,64}$/.test(text), 'give letters, digits and . _ - only.');
const ABSOLUTE = textLike(isAbsolute, 'give an absolute path.');
const ADDRESS = textLike(isAddress, 'give an address such as backup@example.org.');

/** Also one of this host, as sendmail takes it. What else a header could be made of is none. */
function isAddress(text: string): boolean {
  return /^[^\s<>,;:"()\\]+$/.test(text) && !text.startsWith('-');
}

const ADDRESSES: OptionRule<string | readonly string[], readonly string[]> = {
  flag: 'to',
  fallback: [],
  read: (given) => {
    const read = words('to').read(given);
    if (!read.every(isAddress)) throw new QmpBackupError('usage', 'give addresses such as admin@example.org.');
    return read;
  },
};

const EVENTS: OptionRule<string | readonly string[], readonly NotifyOn[]> = {
  flag: 'on',
  fallback: [],
  choices: NOTIFY_ON,
  read: (given) => {
    const { read } = choice('on', NOTIFY_ON, undefined);
    const events = words('on')
      .read(given)
      .map((each) => read(each as NotifyOn));
    if (events.length > 0) return events;
    throw new QmpBackupError('usage', `give at least one of ${NOTIFY_ON.join(', ')}.`);
  },
};

/** What is wrong with a secret, which is not repeated; null where nothing is. */
type Judge = (text: string) => string | null;

export const webUrl: Judge = (text) => {
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) return 'is no http:// or https:// address';
  const { username, password } = new URL(text);
  return username + password === '' ? null : 'has a user or password in it: give a header or token instead';
};

export const headerText: Judge = (text) =>
  /^[\x20-\x7e]+$/.test(text) ? null : 'has characters that no header may have';

/** The keys of one section, with what is wrong with their values. */
class Keys {
  readonly #reader: YamlReader;
  readonly #entries: ReadonlyMap<string, Entry>;
  readonly #path: string;

  constructor(reader: YamlReader, entries: ReadonlyMap<string, Entry>, path: string) {
    this.#reader = reader;
    this.#entries = entries;
    this.#path = path;
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  names(): readonly string[] {
    return [...this.#entries.keys()];
  }

  complain(text: string): void {
    const [first] = this.#entries.values();
    this.#reader.complain(first?.place ?? this.#reader.placeOf(null), this.#path, text);
  }

  /** What `rule` makes of the value; undefined where there is none, or a wrong one. */
  read<Value>(key: string, rule: OptionRule<never, Value>): NonNullable<Value> | undefined {
    const value = this.#entries.get(key)?.value ?? null;
    if (value === null || isNothing(value)) return undefined;
    const given = this.#reader.given(rule, value, `${this.#path}.${key}`);
    return given === undefined ? undefined : (rule.read(given as never) ?? undefined);
  }

  needed<Value>(key: string, rule: OptionRule<never, Value>): NonNullable<Value> | undefined {
    if (!this.has(key)) this.complain(`needs ${key}`);
    return this.read(key, rule);
  }

  /** `known`: null is any. */
  below(key: string, known: readonly string[] | null): Keys {
    const path = `${this.#path}.${key}`;
    const entries = this.#reader.entries(this.#entries.get(key)?.value ?? null, path, known);
    return new Keys(this.#reader, new Map(entries.map((entry) => [entry.key, entry])), path);
  }

  /** Whether the value has keys, one of `names` among them. */
  isSection(key: string, names: readonly string[]): boolean {
    const value = this.#entries.get(key)?.value ?? null;
    return isMap(value) && value.items.some((item) => isScalar(item.key) && names.includes(String(item.key.value)));
  }

  /** A text, `{ file: PATH }` or `{ credential: NAME }`. What is wrong is told without it. */
  secret(key: string, judge: Judge): Secret | null {
    const [entry, path] = [this.#entries.get(key), `${this.#path}.${key}`];
    const value = entry?.value ?? null;
    if (value === null || isNothing(value)) {
      this.#reader.complain(entry?.place ?? this.#reader.placeOf(null), path, 'has to be given');
      return null;
    }
    const place = this.#reader.placeOf(value);
    if (isScalar(value)) {
      const text = (value.source ?? String(value.value)).trimEnd();
      const wrong = text === '' ? 'is empty' : judge(text);
      if (wrong !== null) this.#reader.complain(place, path, wrong);
      return { place, source: { kind: 'config', text } };
    }
    if (!isMap(value)) {
      this.#reader.complain(place, path, 'has to be a text, { file: PATH } or { credential: NAME }');
      return null;
    }
    const from = this.below(key, ['file', 'credential']);
    if (from.has('file') === from.has('credential')) {
      this.#reader.complain(place, path, 'needs either file or credential');
      return null;
    }
    if (from.has('file')) {
      const file = from.read('file', ABSOLUTE);
      return file === undefined ? null : { place, source: { kind: 'file', path: file } };
    }
    const name = from.read('credential', NAME);
    return name === undefined ? null : { place, source: { kind: 'credential', name } };
  }
}
