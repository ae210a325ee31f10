import type { HttpRequest } from './http.js';

export type PingKind = 'start' | 'success' | 'fail';

/** `URL/start`, `URL` and `URL/fail`, as healthchecks services take them. */
export function pingRequest(url: string): HttpRequest {
  return { url, method: 'GET', headers: {}, body: null };
}

export function pingUrl(url: string, kind: PingKind): string {
  if (kind === 'success') return url;
  const to = new URL(url);
  to.pathname = `${to.pathname.replace(/\/$/, '')}/${kind}`;
  return to.href;
}
