import { describe, expect, it } from 'vitest';
import { secretsOf } from '../../../src/config/notifiers.js';
import { readConfig } from '../../../src/config/read-config.js';
import { secretOrigin } from '../../../src/config/secret.js';

const SECRET = 'hush-7f3a9c';

function notifiersOf(entry: string) {
  return readConfig(`notify:\n  - ${entry}\n`, '/c.yaml').notify;
}

function problemOf(entry: string): string {
  try {
    notifiersOf(entry);
  } catch (error) {
    return String(error);
  }
  return 'nothing';
}

describe('the notifiers of a configuration', () => {
  it('have names, rules and ports of their own', () => {
    const [one, two, three, four] = notifiersOf(`{ webhook: "https://h/x" }
  - { webhook: { file: /s }, on: always, headers: { X-A: { credential: c } } }
  - { smtp: { host: h }, from: a@b, to: c@d, remind: 12h, digest-at: "23:30", on: [digest] }
  - { name: own, ping: { start: "http://h/s", success: "http://h/o" } }`);
    expect(one).toMatchObject({
      name: 'webhook',
      shape: 'json',
      rules: { on: ['failure', 'recovery'], remindDays: null },
    });
    expect(two).toMatchObject({ name: 'webhook-2', rules: { on: ['always'] } });
    expect(secretsOf(two!).map(({ key, secret }) => `${key}: ${secretOrigin(secret)}`)).toEqual([
      'webhook: file /s',
      'headers.X-A: credential c',
    ]);
    expect(three).toMatchObject({
      by: { port: 465, tls: 'implicit', login: null, ca: null },
      rules: { on: ['digest'], remindDays: 0.5, digestAt: 23 * 60 + 30 },
    });
    expect(four).toMatchObject({ name: 'own', urls: { kind: 'each', fail: null } });
    const ports = ['port: 2525', 'tls: starttls', 'tls: none'].map((more) => {
      const [found] = notifiersOf(`{ smtp: { host: h, ${more} }, from: a@b, to: c@d }`);
      return found?.kind === 'mail' && found.by.kind === 'smtp' ? `${found.by.tls} ${found.by.port}` : '';
    });
    expect(ports).toEqual(['starttls 2525', 'starttls 587', 'none 25']);
  });

  it.each([
    ['{ name: x }', /notify\[0\] needs one of sendmail, smtp, webhook, ping/],
    ['{ webhook: "http://h", ping: "http://h" }', /needs one of/],
    ['{ webhoook: "http://h" }', /notify\[0\]\.webhoook is no key .*is webhook meant/],
    [`{ webhook: "ftp://${SECRET}" }`, /\/c\.yaml:2:16: notify\[0\]\.webhook is no http/],
    [`{ webhook: "http://me:${SECRET}@h/" }`, /has a user or password in it/],
    [`{ webhook: { text: ${SECRET} } }`, /notify\[0\]\.webhook\.text is no key/],
    ['{ webhook: { file: s, credential: c } }', /needs either file or credential/],
    ['{ webhook: { file: relative } }', /give an absolute path/],
    [`{ webhook: "http://h", token: "${SECRET}\\n\\u0007x" }`, /token has characters that no header may have/],
    [`{ webhook: "http://h", token: [${SECRET}] }`, /token has to be a text/],
    ['{ webhook: "http://h", headers: { "a b": c } }', /no header that could be called "a b"/],
    ['{ webhook: "http://h", shape: ntfi }', /is not one of .*Is ntfy meant/],
    ['{ webhook: "http://h", on: [failur] }', /is not one of failure, recovery/],
    ['{ webhook: "http://h", on: [] }', /give at least one of failure/],
    ['{ webhook: "http://h", to: root }', /notify\[0\]\.to does not go with webhook/],
    ['{ ping: "http://h", on: failure }', /notify\[0\]\.on does not go with ping/],
    ['{ ping: { start: "http://h/s" } }', /ping\.success has to be given/],
    ['{ sendmail: /s }', /notify\[0\]\.to has to be given/],
    ['{ sendmail: s, to: root }', /give an absolute path/],
    ['{ sendmail: /s, to: "a@b, c@d" }', /give addresses/],
    ['{ sendmail: /s, to: "a@b\\nBcc: c@d" }', /give addresses/],
    ['{ smtp: { host: h }, from: a@b, to: root }', /has an address without @/],
    ['{ smtp: { host: h, user: u }, from: a@b, to: c@d }', /needs both of user and password/],
    [`{ smtp: { host: h, user: u, password: ${SECRET}, tls: none }, from: a@b, to: c@d }`, /tls: none/],
    ['{ webhook: "http://h", name: a }\n  - { ping: "http://h", name: a }', /is that of another notifier: a/],
  ])('are refused as %s, without a secret in it', (entry, words) => {
    expect(problemOf(entry)).toMatch(words);
    expect(problemOf(entry)).not.toContain(SECRET);
  });
});
