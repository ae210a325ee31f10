import type { Place } from './place.js';
import type { Secret } from './secret.js';

/** Who hears of a run, by the section `notify` (docs/decisions/0037). */
export type Notifier = MailNotifier | WebhookNotifier | PingNotifier;

/** Those that tell a message. */
export type MessageNotifier = MailNotifier | WebhookNotifier;

export const NOTIFY_ON = ['failure', 'recovery', 'always', 'digest'] as const;
export type NotifyOn = (typeof NOTIFY_ON)[number];

/** When a message is told. */
export interface NotifyRules {
  readonly on: readonly NotifyOn[];
  /** Days after which a failure that goes on is told again; null is never. */
  readonly remindDays: number | null;
  /** Minutes after midnight, in local time: the first run after that has the digest. */
  readonly digestAt: number;
}

interface Named {
  /** What it is remembered by, too. */
  readonly name: string;
  readonly place: Place;
}

export interface MailNotifier extends Named {
  readonly kind: 'mail';
  readonly by: SmtpServer | SendmailProgram;
  /** Null is for the sendmail program to say. */
  readonly from: string | null;
  readonly to: readonly string[];
  readonly rules: NotifyRules;
}

export interface SendmailProgram {
  readonly kind: 'sendmail';
  /** Absolute. */
  readonly path: string;
}

export const SMTP_TLS = ['implicit', 'starttls', 'none'] as const;

export interface SmtpServer {
  readonly kind: 'smtp';
  readonly host: string;
  readonly port: number;
  readonly tls: (typeof SMTP_TLS)[number];
  readonly login: { readonly user: string; readonly password: Secret } | null;
  /** Absolute path of certificates that are trusted instead of those of Node. */
  readonly ca: string | null;
}

export const WEBHOOK_SHAPES = ['json', 'ntfy', 'slack', 'matrix', 'gotify'] as const;
export type WebhookShape = (typeof WEBHOOK_SHAPES)[number];

export interface WebhookNotifier extends Named {
  readonly kind: 'webhook';
  readonly url: Secret;
  readonly shape: WebhookShape;
  readonly token: Secret | null;
  readonly headers: ReadonlyMap<string, Secret>;
  readonly rules: NotifyRules;
}

/** A dead-man switch: hears of each run, and its silence is an alarm. */
export interface PingNotifier extends Named {
  readonly kind: 'ping';
  readonly urls: PingUrls;
}

export type PingUrls =
  /** `URL/start`, `URL`, `URL/fail`. */
  | { readonly kind: 'one'; readonly url: Secret }
  | { readonly kind: 'each'; readonly start: Secret | null; readonly success: Secret; readonly fail: Secret | null };

/** All secrets of a notifier, by their keys. */
export function secretsOf(notifier: Notifier): readonly { readonly key: string; readonly secret: Secret }[] {
  const found = (key: string, secret: Secret | null): readonly { key: string; secret: Secret }[] =>
    secret === null ? [] : [{ key, secret }];
  switch (notifier.kind) {
    case 'mail':
      return notifier.by.kind === 'smtp' ? found('smtp.password', notifier.by.login?.password ?? null) : [];
    case 'webhook':
      return [
        ...found('webhook', notifier.url),
        ...found('token', notifier.token),
        ...[...notifier.headers].flatMap(([name, secret]) => found(`headers.${name}`, secret)),
      ];
    case 'ping': {
      const { urls } = notifier;
      if (urls.kind === 'one') return found('ping', urls.url);
      return [
        ...found('ping.start', urls.start),
        ...found('ping.success', urls.success),
        ...found('ping.fail', urls.fail),
      ];
    }
  }
}
