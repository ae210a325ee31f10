import type { WebhookShape } from '../../config/notifiers.js';
import type { NotifyMessage } from '../message.js';
import type { HttpRequest } from './http.js';

export interface WebhookAccess {
  readonly url: string;
  readonly token: string | null;
  readonly headers: Readonly<Record<string, string>>;
}

const JSON_TYPE = { 'content-type': 'application/json' } as const;

/** A message as the receiver takes it (docs/guide/notifications.md). */
export function webhookRequest(shape: WebhookShape, access: WebhookAccess, message: NotifyMessage): HttpRequest {
  const { url, token, headers } = access;
  const bearer: Readonly<Record<string, string>> = token === null ? {} : { authorization: `Bearer ${token}` };
  const json = (to: string, value: unknown, more: Readonly<Record<string, string>> = bearer): HttpRequest => ({
    ...{ url: to, method: 'POST' },
    headers: { ...JSON_TYPE, ...more, ...headers },
    body: JSON.stringify(value),
  });
  const { subject, text, id, document } = message;
  switch (shape) {
    case 'json':
      return json(url, document, { ...bearer, 'idempotency-key': id });
    case 'ntfy': {
      const { server, topic } = topicOf(url);
      return json(server, {
        topic,
        title: subject,
        message: cut(text, NTFY_MOST),
        priority: NTFY_PRIORITY[message.urgency],
      });
    }
    case 'slack':
      return json(url, { text: slackText(`*${subject}*\n${cut(text, CHAT_MOST)}`) });
    case 'matrix': {
      // Sent again by the same id it is one message.
      const to = new URL(url);
      to.pathname = `${to.pathname.replace(/\/$/, '')}/${id}`;
      return { ...json(to.href, { msgtype: 'm.text', body: `${subject}\n\n${cut(text, CHAT_MOST)}` }), method: 'PUT' };
    }
    case 'gotify':
      return json(
        url,
        { title: subject, message: text, priority: GOTIFY_PRIORITY[message.urgency] },
        token === null ? {} : { 'x-gotify-key': token },
      );
  }
}

/** ntfy takes 4096 bytes, and makes a file of what is longer. Characters. */
const NTFY_MOST = 1_300;
/** Matrix refuses events of more than 64 KiB for good, and Slack cuts what is longer than 40,000 characters. Characters, of up to 3 bytes. */
const CHAT_MOST = 12_000;
const NTFY_PRIORITY = { failure: 4, recovery: 3, info: 2 } as const;
const GOTIFY_PRIORITY = { failure: 8, recovery: 5, info: 2 } as const;

/** Of `https://ntfy.sh/topic`: published as JSON to the server, a title may be in any script. */
function topicOf(url: string): { readonly server: string; readonly topic: string } {
  const server = new URL(url);
  const [, before = '/', topic = ''] = /^(.*\/)([^/]*)$/.exec(server.pathname.replace(/\/$/, '')) ?? [];
  server.pathname = before;
  return { server: server.href, topic: decodeURIComponent(topic) };
}

/** `<!channel>` in the name of a VM calls nobody. */
function slackText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most)} ...` : text;
}
