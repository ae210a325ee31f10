import { messageOf } from '../../errors.js';
import { packageVersion } from '../../host/package-version.js';
import { type Attempt, DELIVERED, failedNow, refused } from './attempts.js';
import { whyNotTrusted } from './certificate.js';

export interface HttpRequest {
  /** A secret, often. */
  readonly url: string;
  readonly method: 'GET' | 'POST' | 'PUT';
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | null;
}

/**
 * One request, by Node's own fetch: no proxy of the environment is used. A redirect is not followed, for headers with secrets would
 * go wherever it points.
 */
export async function request({ url, method, headers, body }: HttpRequest, signal: AbortSignal): Promise<Attempt> {
  try {
    const answer = await fetch(url, {
      method,
      headers: { 'user-agent': `qmpbackup/${packageVersion()}`, ...headers },
      ...(body === null ? {} : { body }),
      ...{ redirect: 'manual', signal },
    });
    if (answer.ok) {
      // It was taken, whatever is said of that, and for how long.
      await answer.body?.cancel();
      return DELIVERED;
    }
    const words = await beginningOf(answer);
    const status = `${new URL(url).host} answers ${answer.status}${words === '' ? '' : `: ${words}`}`;
    if (answer.status >= 300 && answer.status < 400)
      return refused(`${status} (it has moved: give the address that it redirects to)`);
    // Timeout, too early, too many requests; all else of the client's is so again.
    const mayPass = answer.status >= 500 || [408, 425, 429].includes(answer.status);
    return mayPass ? failedNow(status, askedWait(answer)) : refused(status);
  } catch (error) {
    const { host } = new URL(url);
    const untrusted = whyNotTrusted(error, 'name the one who has signed it by NODE_EXTRA_CA_CERTS=FILE');
    if (untrusted !== null) return refused(`${host}: ${untrusted}`);
    return failedNow(`${host} cannot be reached: ${reasonOf(error, signal)}`);
  }
}

/** `fetch failed` says nothing; what is behind it does. */
function reasonOf(error: unknown, signal: AbortSignal): string {
  if (signal.aborted) return 'it does not answer in time';
  const cause = error instanceof Error ? error.cause : undefined;
  // Of several addresses each has failed.
  const first: unknown = cause instanceof AggregateError ? cause.errors[0] : cause;
  return messageOf(first ?? error);
}

/** Milliseconds of `Retry-After`, where it is a number of seconds. */
function askedWait({ headers }: Response): number | null {
  const asked = headers.get('retry-after');
  return asked !== null && /^\d{1,5}$/.test(asked) ? Number(asked) * 1000 : null;
}

/** Characters of an answer that are read: more than is told, for that is cut when no secret is in it any more. */
const MOST_WORDS = 4_000;

/** The beginning of what a receiver says: it may say it without end. The word at the end, of which the rest is missing, is left out. */
async function beginningOf({ body }: Response): Promise<string> {
  let text = '';
  if (!body) return text;
  const decoder = new TextDecoder();
  for await (const piece of body as AsyncIterable<Uint8Array>) {
    text += decoder.decode(piece, { stream: true });
    if (text.length > MOST_WORDS) {
      text = text.slice(0, MOST_WORDS).replace(/\S*$/, '');
      break;
    }
  }
  return text.replace(/\s+/g, ' ').trim();
}
