import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Config } from '../../src/config/config.js';
import { readConfig } from '../../src/config/read-config.js';
import {
  type Notification,
  notifyOfEnd,
  notifyOfLockedOut,
  notifyTest,
  type NotifyContext,
} from '../../src/notify/notify.js';
import { brokenNotifiers, readNotified } from '../../src/notify/notified-file.js';
import type { RunOutcome } from '../../src/notify/outcome.js';
import type { VmHistory } from '../../src/run/history.js';
import { certificate, httpReceiver, type HttpReceiver, smtpReceiver, tlsReceiver } from '../support/receivers.js';

// Messages to real receivers on loopback: what arrives, what is tried again, and what of a secret is said.

let dir: string;
let web: HttpReceiver;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qmpbackup-'));
  vi.stubEnv('STATE_DIRECTORY', join(dir, 'state'));
  web = await httpReceiver();
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await web.close();
  await rm(dir, { recursive: true });
});

const NOW = new Date('2026-11-30T10:00:00Z');
const SECRET = 's3cret-token';
const warned: string[] = [];

function context(given: Partial<NotifyContext['times']> = {}, now = NOW): NotifyContext {
  warned.length = 0;
  return {
    now: () => now,
    signal: new AbortController().signal,
    warn: (text) => warned.push(text),
    times: { allMs: 20_000, lastMs: 500, attemptMs: 5_000, waitsMs: [1, 1], ...given },
  };
}

function configOf(notify: string): Config {
  return readConfig(`notify:\n${notify}`, join(dir, 'config.yaml'));
}

const ODD = '<!channel> & "web"';

function vm(name: string, result: 'ok' | 'failed'): VmHistory {
  const step = { verb: 'backup', at: NOW.toISOString(), durationMs: 1, exitCode: 1, hint: null, warnings: [] } as const;
  const why = result === 'failed' ? 'the disk is full\nreally' : null;
  return {
    ...{ vm: name, target: '/b', folder: null, backup: null, checks: { verify: null, boot: null } },
    run: {
      at: NOW.toISOString(),
      endedAt: NOW.toISOString(),
      result,
      steps: [{ ...step, result, why, summary: null }],
    },
    failingSince: result === 'failed' ? NOW.toISOString() : null,
  };
}

function outcome(vms: readonly VmHistory[], problems: readonly string[] = []): RunOutcome {
  const config = join(dir, 'config.yaml');
  return {
    ...{ config, begunAt: NOW, endedAt: NOW, vms: null, notBegun: [], isWhole: true, problems },
    history: { schema: 1, config, vms },
  };
}

const FAILED = [vm(ODD, 'failed'), vm('Zürich', 'ok')];

async function told(notify: string, more: Partial<NotifyContext['times']> = {}): Promise<Notification> {
  const [one] = await notifyOfEnd(configOf(notify), outcome(FAILED), context(more));
  return one!;
}

describe('a webhook', () => {
  it.each([
    ['json', '/hook', { authorization: `Bearer ${SECRET}` }, /"occasions":\["failure"\]/, 'POST /hook'],
    ['ntfy', '/topic', { authorization: `Bearer ${SECRET}` }, /"topic":"topic".*"priority":4/, 'POST /'],
    ['slack', '/T0/B0', {}, /&lt;!channel&gt; &amp; /, 'POST /T0/B0'],
    ['gotify', '/message', { 'x-gotify-key': SECRET }, /"priority":8/, 'POST /message'],
    ['matrix', '/rooms/!r/send/m.room.message', {}, /"msgtype":"m.text"/, /^PUT .*m\.room\.message\/[0-9a-f]{32}$/],
  ] as const)('takes a message as %s', async (shape, path, headers, body, line) => {
    const answer = await told(
      `  - { name: w, webhook: "${web.url}${path}", shape: ${shape}, token: ${SECRET}, headers: { X-A: b } }`,
    );
    expect(answer).toEqual({ notifier: 'w', kind: 'webhook', what: ['failure'], failed: null });
    const [got, ...others] = web.take();
    expect(others).toEqual([]);
    expect(`${got!.method} ${got!.path}`).toMatch(line);
    expect(got!.headers).toMatchObject({ ...headers, 'x-a': 'b', 'content-type': 'application/json' });
    expect(got!.body).toMatch(body);
    expect(() => JSON.parse(got!.body) as unknown).not.toThrow();
  });

  it.each([
    ['matrix', 65_000],
    ['slack', 65_000],
    ['ntfy', 8_000],
  ])('is taken as %s by its size also where hundreds of VMs fail', async (shape, most) => {
    const failed = Array.from({ length: 300 }, (_, number) => vm(`${'\u{20ac}"'.repeat(60)}${number}`, 'failed'));
    const notify = `  - { webhook: "${web.url}/a/b", shape: ${shape} }`;
    await notifyOfEnd(configOf(notify), outcome(failed), context());
    const [got] = web.take();
    expect(Buffer.byteLength(got!.body)).toBeLessThan(most);
    expect(got!.body).toContain('300 VMs fail');
  });

  it('is tried again where that may help, and is not where it does not', async () => {
    const hook = `  - { name: w, webhook: "${web.url}/${SECRET}" }`;
    for (const [status, requests] of [
      [500, 3],
      [429, 3],
      [408, 3],
      [404, 1],
      [401, 1],
      [302, 1],
    ] as const) {
      web.answer(status, `Cannot POST /${SECRET}`, { location: `${web.url}/other` });
      const { failed } = await told(hook);
      expect([status, web.take().length]).toEqual([status, requests]);
      expect(failed).toMatch(new RegExp(`answers ${status}: Cannot POST \\*\\*\\*`));
      expect(failed).not.toContain(SECRET);
    }
    web.answer('hang');
    expect((await told(hook, { attemptMs: 100 })).failed).toMatch(/does not answer in time/);
    expect(web.take()).toHaveLength(3);
    // All attempts end at the deadline.
    expect((await told(hook, { attemptMs: 60_000, allMs: 200 })).failed).toMatch(/does not answer in time/);
    web.answer(200);
    web.take();
    expect((await told(hook)).failed).toBeNull();
    expect(web.take()).toHaveLength(1);
    expect(await notifyOfEnd(configOf(hook), outcome(FAILED), context())).toEqual([]);
  });

  it.each([
    ['far inside of a page', `${'x'.repeat(180)} Cannot POST /${SECRET}/${SECRET}`],
    ['across the end of what is read', `${'x '.repeat(1_992)}Cannot POST /${SECRET}`],
    ['without an end', SECRET.repeat(1_000)],
    ['as HTML', `<pre>key=${SECRET.slice(0, 4)}&amp;${SECRET.slice(4)}</pre>`],
    ['decoded', `no topic tö${SECRET}`],
  ])('tells no part of a secret that its answer repeats: %s', async (_, body) => {
    web.answer(404, body);
    const url = `${web.url}/t%C3%B6${SECRET}/${SECRET}?key=${SECRET.slice(0, 4)}&${SECRET.slice(4)}`;
    const { failed } = await told(`  - { webhook: "${url}", token: ${SECRET} }`);
    expect(failed).toMatch(/answers 404/);
    for (let at = 0; at + 4 <= SECRET.length; at += 1) expect(failed).not.toContain(SECRET.slice(at, at + 4));
  });

  it.each([
    ['/redir', {}, 'no /redir here, nor redir', 'no *** here, nor ***'],
    ['/p', {}, 'not /p', 'not /p'],
    ['/hook', { 'X-A': 'e' }, 'wrong e', 'wrong ***'],
    ['/hook', { 'X-A': 'Geheimwort' }, 'token%3DGeheimwort', 'token%3D***'],
  ])('masks of the address %s no part of another word', async (path, headers, answer, masked) => {
    web.answer(302, answer);
    const { failed } = await told(`  - { webhook: "${web.url}${path}", headers: ${JSON.stringify(headers)} }`);
    const host = web.url.replace('http://', '');
    expect(failed).toBe(`${host} answers 302: ${masked} (it has moved: give the address that it redirects to)`);
  });

  it('is told once by a receiver that takes it and then answers without an end', async () => {
    const endless = createServer((asked, answer) => {
      asked.resume();
      answer.writeHead(200).write('taken');
      asked.on('end', () => (taken += 1));
    });
    let taken = 0;
    await new Promise<void>((resolve) => endless.listen(0, '127.0.0.1', resolve));
    try {
      const { port } = endless.address() as AddressInfo;
      const hook = `  - { name: w, webhook: "http://127.0.0.1:${port}/" }`;
      expect((await told(hook, { attemptMs: 500 })).failed).toBeNull();
      expect(await notifyOfEnd(configOf(hook), outcome(FAILED), context())).toEqual([]);
      expect(taken).toBe(1);
    } finally {
      endless.closeAllConnections();
      await new Promise((resolve) => endless.close(resolve));
    }
  });

  it('says who cannot be reached', async () => {
    const url = web.url;
    await web.close();
    expect((await told(`  - { webhook: "${url}/${SECRET}" }`)).failed).toMatch(
      /127\.0\.0\.1:\d+ cannot be reached: .*ECONNREFUSED/,
    );
    web = await httpReceiver();
  });
});

describe('an e-mail', () => {
  it.each([true, false])('goes to a server by TLS and login, implicit: %s', async (implicit) => {
    const smtp = await smtpReceiver(dir, { implicit, user: 'u', password: SECRET });
    try {
      await writeFile(join(dir, 'password'), `${SECRET}\n`, { mode: 0o600 });
      const server = (password: string, more = `, ca: ${smtp.ca}`): string =>
        `  - { smtp: { host: 127.0.0.1, port: ${smtp.port}, tls: ${implicit ? 'implicit' : 'starttls'}, user: u, password: ${password}${more} }, from: b@example.org, to: [a@example.org, c@example.org] }`;
      const right = server(`{ file: ${join(dir, 'password')} }`);
      // An authority that nobody knows.
      expect((await told(server(SECRET, ''))).failed).toMatch(/certificate/i);
      const wrong = await told(server(`wrong-${SECRET}`));
      expect(wrong.failed).toMatch(/Invalid login.*535/);
      expect(wrong.failed).not.toContain(SECRET);
      smtp.refusals.push(451);
      expect(await told(right)).toMatchObject({ kind: 'mail', failed: null });
      expect(smtp.got).toHaveLength(1);
      const [mail] = smtp.got;
      expect(mail).toMatchObject({
        from: 'b@example.org',
        to: ['a@example.org', 'c@example.org'],
        user: 'u',
        secure: true,
      });
      expect(mail!.text).toMatch(/^Subject: .*1_VM_fails/m);
      expect(mail!.text).toMatch(/^Message-ID: <[0-9a-f]{32}@/m);
      expect(mail!.text).toMatch(/backup failed: the =\r\ndisk is full/);
      smtp.greetAfter(1_500);
      const slow = await notifyOfEnd(
        configOf(right),
        outcome([...FAILED, vm('slow', 'failed')]),
        context({ attemptMs: 1_000, waitsMs: [] }),
      );
      expect(slow[0]!.failed).toBeNull();
      smtp.greetAfter(0);
      smtp.refusals.push(550);
      const refused = await notifyOfEnd(configOf(right), outcome([...FAILED, vm('more', 'failed')]), context());
      expect(refused[0]!.failed).toMatch(/550/);
    } finally {
      await smtp.close();
    }
  });

  it('that a server takes for some only is not sent again, and says for whom it was refused', async () => {
    const smtp = await smtpReceiver(dir, { implicit: true, user: 'u', password: SECRET });
    try {
      const notify = `  - { name: m, smtp: { host: 127.0.0.1, port: ${smtp.port}, tls: implicit, user: u, password: ${SECRET}, ca: ${smtp.ca} }, from: b@example.org, to: [a@example.org, c@example.org] }`;
      smtp.strangers.add('c@example.org');
      expect((await told(notify)).failed).toMatch(
        /c@example\.org was refused: 550 no such user; the others were told$/,
      );
      const { notified } = await readNotified(join(dir, 'config.yaml'));
      expect(brokenNotifiers(notified, [{ name: 'm' }]).join()).toMatch(/c@example\.org was refused/);
      expect(await notifyOfEnd(configOf(notify), outcome(FAILED), context())).toEqual([]);
      expect(smtp.got.map(({ to }) => to)).toEqual([['a@example.org']]);
      smtp.strangers.add('a@example.org');
      const none = await notifyOfEnd(configOf(notify), outcome([...FAILED, vm('more', 'failed')]), context());
      expect(none[0]!.failed).toMatch(/all recipients were rejected: 550/);
      smtp.strangers.clear();
      expect(await notifyOfEnd(configOf(notify), outcome([...FAILED, vm('more', 'failed')]), context())).toMatchObject([
        { what: ['failure'], failed: null },
      ]);
    } finally {
      await smtp.close();
    }
  });

  it('goes to a sendmail program on its stdin, with nothing in its arguments', async () => {
    const program = join(dir, 'sendmail');
    await writeFile(program, `#!/bin/sh\necho "$@" >${dir}/arguments\ncat >${dir}/mail\n`, { mode: 0o755 });
    expect(await told(`  - { sendmail: ${program}, to: root }`)).toMatchObject({ failed: null });
    expect(await readFile(join(dir, 'arguments'), 'utf8')).toBe('-i -t\n');
    const mail = await readFile(join(dir, 'mail'), 'utf8');
    expect(mail).toMatch(/^To: root$/m);
    expect(mail).toMatch(/^Auto-Submitted: auto-generated$/m);
    await rm(join(dir, 'state'), { recursive: true });
    await writeFile(program, '#!/bin/sh\ncat >/dev/null\necho no room >&2\nexit 75\n', { mode: 0o755 });
    expect((await told(`  - { sendmail: ${program}, to: root }`)).failed).toBe(`${program} ended with 75: no room`);
    expect((await told(`  - { sendmail: ${dir}/none, to: root }`)).failed).toMatch(/could not be started/);
  });
});

describe('a certificate that is not trusted is said, with what to do, and nothing is tried again:', () => {
  it.each([
    ['of nobody', {}, /its certificate is not trusted: self-signed certificate \(.* by NODE_EXTRA_CA_CERTS=FILE\)$/],
    ['that has expired', { days: -1 }, /its certificate is not trusted: certificate has expired$/],
  ])('of a webhook, %s', async (_, asked, words) => {
    const server = await tlsReceiver(await certificate(dir, asked));
    try {
      expect((await told(`  - { webhook: "${server.url}/${SECRET}" }`)).failed).toMatch(words);
      expect(server.connections()).toBe(1);
    } finally {
      await server.close();
    }
  });

  it.each([
    ['of nobody', true, {}, false, /its certificate is not trusted: self-signed certificate \(.* by ca: FILE\)$/],
    ['of nobody, by STARTTLS', false, {}, false, /not trusted: self-signed certificate \(.* by ca: FILE\)$/],
    ['that has expired', true, { days: -1 }, true, /its certificate is not trusted: certificate has expired$/],
    ['of another host', true, { ip: '192.0.2.1' }, true, /not trusted: .*does not match .* 127\.0\.0\.1 is not in/],
  ])('of a mail server, %s', async (_, implicit, asked, isKnown, words) => {
    const smtp = await smtpReceiver(dir, {
      implicit,
      user: 'u',
      password: SECRET,
      used: await certificate(dir, asked),
    });
    try {
      const server = `host: 127.0.0.1, port: ${smtp.port}, tls: ${implicit ? 'implicit' : 'starttls'}, user: u, password: ${SECRET}`;
      const known = isKnown ? `, ca: ${smtp.ca}` : '';
      const { failed } = await told(`  - { smtp: { ${server}${known} }, from: b@example.org, to: [a@example.org] }`);
      expect(failed).toMatch(words);
      expect([failed, smtp.got]).toEqual([expect.not.stringContaining(SECRET), []]);
    } finally {
      await smtp.close();
    }
  });
});

it('a mail server that wants a certificate of ours is not told as one whose own is not trusted', async () => {
  const smtp = await smtpReceiver(dir, { implicit: true, user: 'u', password: SECRET, wantsCertificate: true });
  try {
    const server = `host: 127.0.0.1, port: ${smtp.port}, tls: implicit, user: u, password: ${SECRET}, ca: ${smtp.ca}`;
    const { failed } = await told(`  - { smtp: { ${server} }, from: b@example.org, to: [a@example.org] }`);
    expect(failed).toMatch(/certificate required/);
    expect(failed).not.toMatch(/trusted/);
    expect(smtp.got).toEqual([]);
  } finally {
    await smtp.close();
  }
});

describe('secrets', () => {
  it('come from files and credentials, and are refused where everybody may read them', async () => {
    const path = join(dir, 'url');
    await writeFile(path, `${web.url}/${SECRET}\n`, { mode: 0o640 });
    const byFile = `  - { webhook: { file: ${path} } }`;
    expect((await told(byFile)).failed).toBeNull();
    await rm(join(dir, 'state'), { recursive: true });
    expect((await told('  - { webhook: { credential: url } }')).failed).toMatch(/CREDENTIALS_DIRECTORY is not set/);
    vi.stubEnv('CREDENTIALS_DIRECTORY', dir);
    expect((await told('  - { webhook: { credential: url } }')).failed).toBeNull();
    await rm(join(dir, 'state'), { recursive: true });
    await chmod(path, 0o644);
    expect((await told(byFile)).failed).toMatch(/everybody may read or change the secret .*\/url/);
    await chmod(path, 0o600);
    await writeFile(path, `ftp://${SECRET}`);
    const { failed } = await told(byFile);
    expect(failed).toMatch(/webhook, from file .*, is no http:\/\/ or https:\/\/ address/);
    expect(failed).not.toContain(SECRET);
    await rm(path);
    expect((await told(byFile)).failed).toMatch(/there is no secret/);
    // Nor is one in what is remembered.
    const [folder = ''] = await readdir(join(dir, 'state'));
    expect(await readFile(join(dir, 'state', folder, 'notified.json'), 'utf8')).not.toContain(SECRET);
  });
});

describe('a dead-man switch', () => {
  it('hears how each run went, and a test', async () => {
    const config = configOf(`  - { ping: "${web.url}/p?create=1" }`);
    await notifyOfEnd(config, outcome([vm('a', 'ok')]), context());
    await notifyOfEnd(config, outcome([vm('a', 'ok')]), context());
    await notifyOfEnd(config, outcome(FAILED), context());
    await notifyTest(config, config.notify, context());
    expect(web.take().map(({ path }) => path)).toEqual([
      '/p?create=1',
      '/p?create=1',
      '/p/fail?create=1',
      '/p?create=1',
    ]);
    // What is run by hand for one VM says nothing of the others.
    await notifyOfEnd(config, { ...outcome([vm('a', 'ok')]), isWhole: false }, context());
    expect(web.take()).toEqual([]);
    const each = configOf(`  - { ping: { success: "${web.url}/ok", fail: "${web.url}/bad" } }`);
    await notifyOfEnd(each, outcome([], ['it broke']), context());
    expect(web.take().map(({ path }) => path)).toEqual(['/bad']);
  });
});

it('tells of a run that finds another one at work only when that lasts', async () => {
  const config = configOf(`  - { webhook: "${web.url}/x" }\n  - { ping: "${web.url}/p" }`);
  const locked = outcome([], ['it is locked']);
  const after = (hours: number): NotifyContext => context({}, new Date(NOW.getTime() + hours * 3_600_000));
  await notifyOfLockedOut(config, locked, after(0));
  await notifyOfLockedOut(config, locked, after(11));
  expect(web.take()).toEqual([]);
  await notifyOfLockedOut(config, locked, after(13));
  await notifyOfLockedOut(config, locked, after(14));
  expect(web.take().map(({ path }) => path)).toEqual(['/x']);
  await notifyOfEnd(config, outcome([]), after(15));
  expect(
    web
      .take()
      .map(({ path }) => path)
      .toSorted(),
  ).toEqual(['/p', '/x']);
  await notifyOfLockedOut(config, locked, after(16));
  expect(web.take()).toEqual([]);
});

it('does not wait for a clock that went back to say that another run lasts', async () => {
  const config = configOf(`  - { webhook: "${web.url}/x" }`);
  const locked = outcome([], ['it is locked']);
  const after = (hours: number): NotifyContext => context({}, new Date(NOW.getTime() + hours * 3_600_000));
  await notifyOfLockedOut(config, locked, after(10_000));
  await notifyOfLockedOut(config, locked, after(0));
  await notifyOfLockedOut(config, locked, after(13));
  expect(web.take()).toHaveLength(1);
});

it('says where it is not remembered what was told', async () => {
  await writeFile(join(dir, 'state'), 'no folder');
  expect((await told(`  - { webhook: "${web.url}/x" }`)).failed).toBeNull();
  expect(warned.join()).toMatch(/what was told is not remembered/);
});
