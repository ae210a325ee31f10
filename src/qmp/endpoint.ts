/**
 * Where a monitor (or a guest agent) listens: written by people as a path, `unix:PATH` or `tcp:HOST:PORT`, and the
 * opening of a socket to it, where every way to fail has words and advice of its own.
 */
import { connect as connectSocket, type Socket } from 'node:net';
import { isSocketPath, MAX_SOCKET_PATH } from '../core/socket-path.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { QmpInterrupted, QmpUnreachable } from './errors.js';

export type Endpoint =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

export interface OpenSocketOptions {
  /** How long the connection may take, in ms. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

const FORMS = 'write a path (/run/vm.sock), unix:PATH or tcp:HOST:PORT (an IPv6 address in brackets: tcp:[::1]:4444)';

export function parseEndpoint(text: string): Endpoint {
  if (text.includes('\0')) throw unusable(text, 'it has a NUL character in it');
  if (/,(server|wait|nowait|reconnect)\b/.test(text)) {
    throw unusable(text, 'it has options of QEMU behind it', `leave out what follows the comma; ${FORMS}`);
  }
  if (text.startsWith('tcp:')) return parseTcp(text);
  const path = text.startsWith('unix:') ? text.slice('unix:'.length) : text;
  if (path === '') throw unusable(text, 'the path is empty');
  requireUsablePath(path);
  return { kind: 'unix', path };
}

/** The endpoint as people write it; `parseEndpoint` reads it back. */
export function describeEndpoint(endpoint: Endpoint): string {
  if (endpoint.kind === 'unix') return /^(unix|tcp):/.test(endpoint.path) ? `unix:${endpoint.path}` : endpoint.path;
  const host = endpoint.host.includes(':') ? `[${endpoint.host}]` : endpoint.host;
  return `tcp:${host}:${endpoint.port}`;
}

/**
 * A connected socket, with no listeners of ours left on it. The caller adds its own before it yields to the event
 * loop, and destroys the socket in the end. Throws QmpUnreachable, or QmpInterrupted by the signal.
 */
export function openSocket(endpoint: Endpoint, options: OpenSocketOptions): Promise<Socket> {
  const { timeoutMs, signal } = options;
  const where = describeEndpoint(endpoint);
  return new Promise<Socket>((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(new QmpInterrupted(`connecting to ${where}`, signal.reason));
      return;
    }
    if (endpoint.kind === 'unix') requireUsablePath(endpoint.path);
    const socket =
      endpoint.kind === 'unix'
        ? connectSocket({ path: endpoint.path })
        : connectSocket({ host: endpoint.host, port: endpoint.port, noDelay: true });

    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      socket.off('connect', onConnect);
      socket.off('error', onError);
    };
    const give = (error: Error): void => {
      settle();
      // A socket torn down while connecting may still report an error, which says nothing new.
      socket.on('error', () => undefined);
      socket.destroy();
      reject(error);
    };
    const onConnect = (): void => {
      settle();
      resolve(socket);
    };
    const onError = (cause: Error): void => give(unreachable(endpoint, cause));
    const onAbort = (): void => give(new QmpInterrupted(`connecting to ${where}`, signal?.reason));
    const timer = setTimeout(() => {
      give(
        new QmpUnreachable(`cannot connect to ${where}: no answer within ${timeoutMs} ms`, {
          errno: 'ETIMEDOUT',
          hint: 'check the address, and whether a firewall or a hanging QEMU is in between',
        }),
      );
    }, timeoutMs);
    signal?.addEventListener('abort', onAbort, { once: true });
    socket.on('connect', onConnect);
    socket.on('error', onError);
  });
}

function parseTcp(text: string): Endpoint {
  const match = /^tcp:(?:\[([^\]]+)\]|([^:[\]/]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined) throw unusable(text, 'a TCP address is tcp:HOST:PORT');
  if (port < 1 || port > 65535) throw unusable(text, `port ${port} is not between 1 and 65535`);
  return { kind: 'tcp', host, port };
}

function requireUsablePath(path: string): void {
  if (isSocketPath(path)) return;
  throw unusable(
    path,
    `the path of a UNIX socket has at most ${MAX_SOCKET_PATH} bytes, this one has ${Buffer.byteLength(path)}`,
    'use a relative path from a nearer working directory, or a short symbolic link',
  );
}

function unusable(text: string, reason: string, hint: string = FORMS): QmpBackupError {
  return new QmpBackupError('usage', `'${text.replaceAll('\0', '\\0')}' is not a usable socket address: ${reason}`, {
    hint,
  });
}

function unreachable(endpoint: Endpoint, cause: Error): QmpUnreachable {
  const where = describeEndpoint(endpoint);
  const errno = 'code' in cause && typeof cause.code === 'string' ? cause.code : undefined;
  const { reason, hint } = adviceFor(errno, endpoint) ?? {
    reason: messageOf(cause),
    hint: 'check that the VM is running and that this is the address of its socket',
  };
  return new QmpUnreachable(`cannot connect to ${where}: ${reason}`, {
    ...(errno === undefined ? {} : { errno }),
    hint,
    cause,
  });
}

interface Advice {
  readonly reason: string;
  readonly hint: string;
}

function adviceFor(errno: string | undefined, endpoint: Endpoint): Advice | undefined {
  switch (errno) {
    case 'ENOENT':
      return {
        reason: 'there is no such socket',
        hint:
          endpoint.kind === 'unix' && /^[^/]+:\d+$/.test(endpoint.path)
            ? `if this is a TCP address, write tcp:${endpoint.path}`
            : 'check the path and whether the VM is running with this socket (-qmp unix:PATH,server=on,wait=off)',
      };
    case 'ECONNREFUSED':
      return {
        reason: 'nobody is listening there',
        hint:
          endpoint.kind === 'unix'
            ? 'the VM is probably not running and left its socket behind, or this is no socket at all'
            : 'check host and port, and whether the VM is running with this socket',
      };
    case 'EACCES':
    case 'EPERM':
      return {
        reason: 'permission denied',
        hint: 'run as root or as the user that QEMU runs as, or give this user access to the socket and its folder',
      };
    case 'EAGAIN':
      return {
        reason: 'its queue of waiting clients is full',
        hint: 'other clients hold the socket or wait for it, and it serves one at a time; close them',
      };
    case 'ENOTDIR':
    case 'ELOOP':
    case 'ENAMETOOLONG':
      return { reason: 'the path leads nowhere', hint: 'check the path, folder by folder' };
    case 'EPROTOTYPE':
      return { reason: 'it is not a stream socket', hint: 'give the socket that QEMU itself made' };
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return { reason: 'the host name is not known', hint: 'check the name, or give the address' };
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'ETIMEDOUT':
      return { reason: 'the host cannot be reached', hint: 'check the address and the network' };
    default:
      return undefined;
  }
}
