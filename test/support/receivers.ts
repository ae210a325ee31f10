import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { SMTPServer } from 'smtp-server';

/** Those who are told of a run, on loopback: real servers that keep what they get. */
export interface HttpReceiver {
  /** `http://127.0.0.1:PORT` */
  readonly url: string;
  readonly got: readonly ReceivedRequest[];
  /** How it answers from now on; `hang` is not at all. Default: 200. */
  answer(status: number | 'hang', body?: string, headers?: Readonly<Record<string, string>>): void;
  /** Takes what was received away, and gives it. */
  take(): readonly ReceivedRequest[];
  close(): Promise<void>;
}

export interface ReceivedRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

export async function httpReceiver(): Promise<HttpReceiver> {
  const got: ReceivedRequest[] = [];
  let reply: { status: number | 'hang'; body: string; headers: Readonly<Record<string, string>> } = {
    status: 200,
    body: 'ok',
    headers: {},
  };
  const server = createServer((asked, answer) => {
    const pieces: Buffer[] = [];
    asked.on('data', (piece: Buffer) => pieces.push(piece));
    asked.on('end', () => {
      const { method = '', url = '', headers } = asked;
      got.push({ method, path: url, headers, body: Buffer.concat(pieces).toString('utf8') });
      if (reply.status !== 'hang') answer.writeHead(reply.status, reply.headers).end(reply.body);
    });
  });
  await listening(server);
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    got,
    answer: (status, body = '', headers = {}) => {
      reply = { status, body, headers };
    },
    take: () => got.splice(0),
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function listening(server: Server | SMTPServer['server']): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve());
  });
}

export interface SmtpReceiver {
  readonly port: number;
  /** Certificate of the authority that has signed its own. */
  readonly ca: string;
  readonly got: readonly ReceivedMail[];
  /** Lets all who connect wait so long before it greets them. Milliseconds. */
  greetAfter(ms: number): void;
  /** Addresses that it takes no mail for. */
  readonly strangers: Set<string>;
  /** Codes that it answers the next messages with instead of taking them. */
  readonly refusals: number[];
  close(): Promise<void>;
}

export interface SmtpOptions {
  readonly implicit: boolean;
  readonly user: string;
  readonly password: string;
  readonly used?: Certificate;
  /** Of a client: it wants one that it knows, too. */
  readonly wantsCertificate?: boolean;
}

export interface ReceivedMail {
  readonly from: string;
  readonly to: readonly string[];
  readonly user: string;
  readonly secure: boolean;
  readonly text: string;
}

export interface Certificate {
  readonly key: Buffer;
  readonly cert: Buffer;
  /** File of `cert`, which has signed itself. */
  readonly path: string;
}

/** In `dir`. Default: of 127.0.0.1, for two days from now. */
export async function certificate(
  dir: string,
  { ip = '127.0.0.1', days = 2 }: { readonly ip?: string; readonly days?: number } = {},
): Promise<Certificate> {
  const [key, asked, names, path] = ['key', 'csr', 'names', 'pem'].map((end) => join(dir, `tls.${end}`)) as [
    string,
    string,
    string,
    string,
  ];
  const openssl = (args: readonly string[]) => promisify(execFile)('openssl', args);
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  await openssl(['req', ...kind, '-keyout', key, '-out', asked, '-subj', `/CN=${ip}`]);
  await writeFile(names, `subjectAltName=IP:${ip}\n`);
  const signed = ['-req', '-in', asked, '-signkey', key, '-extfile', names, '-days', `${days}`, '-out', path];
  await openssl(['x509', ...signed]);
  return { key: await readFile(key), cert: await readFile(path), path };
}

/** An HTTPS server that counts who connects. */
export async function tlsReceiver(
  used: Certificate,
): Promise<{ readonly url: string; readonly connections: () => number; readonly close: () => Promise<void> }> {
  let connections = 0;
  const server = createTlsServer({ key: used.key, cert: used.cert }, (_, answer) => answer.end('ok'));
  server.on('connection', () => (connections += 1));
  await listening(server);
  return {
    url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`,
    connections: () => connections,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** With a certificate for 127.0.0.1 in `dir`, unless there is another one, TLS from the start or by STARTTLS, and a login. */
export async function smtpReceiver(
  dir: string,
  { implicit, user, password, used, wantsCertificate = false }: SmtpOptions,
): Promise<SmtpReceiver> {
  const got: ReceivedMail[] = [];
  const refusals: number[] = [];
  const strangers = new Set<string>();
  let greetAfterMs = 0;
  const { key, cert, path } = used ?? (await certificate(dir));
  const smtp = new SMTPServer({
    ...{ secure: implicit, key, cert, requestCert: wantsCertificate, rejectUnauthorized: wantsCertificate },
    authMethods: ['PLAIN', 'LOGIN'],
    onAuth: (auth, _, done) => {
      const isRight = auth.username === user && auth.password === password;
      if (isRight) done(null, { user });
      else done(Object.assign(new Error(`wrong login ${auth.password}`), { responseCode: 535 }));
    },
    onConnect: (_, done) => void setTimeout(done, greetAfterMs),
    onRcptTo: ({ address }, _, done) =>
      done(strangers.has(address) ? Object.assign(new Error('no such user'), { responseCode: 550 }) : null),
    onData: (stream, session, done) => {
      const pieces: Buffer[] = [];
      stream.on('data', (piece: Buffer) => pieces.push(piece));
      stream.on('end', () => {
        const refusal = refusals.shift();
        if (refusal !== undefined) {
          done(Object.assign(new Error('not now'), { responseCode: refusal }));
          return;
        }
        const { mailFrom, rcptTo } = session.envelope;
        got.push({
          from: mailFrom === false ? '' : mailFrom.address,
          to: rcptTo.map(({ address }) => address),
          user: String(session.user ?? ''),
          secure: session.secure,
          text: Buffer.concat(pieces).toString('utf8'),
        });
        done(null);
      });
    },
  });
  // A client that does not trust the certificate ends the connection.
  smtp.on('error', () => undefined);
  await listening(smtp.server);
  return {
    port: (smtp.server.address() as AddressInfo).port,
    ca: path,
    got,
    refusals,
    strangers,
    greetAfter: (ms) => {
      greetAfterMs = ms;
    },
    close: () => new Promise((resolve) => smtp.close(resolve)),
  };
}
