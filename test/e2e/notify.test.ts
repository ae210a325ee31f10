import { chmod, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { startCli } from '../support/cli.js';
import { type Fleet, fleet } from '../support/fleet.js';
import { httpReceiver, type HttpReceiver, smtpReceiver } from '../support/receivers.js';
import { afterTest } from '../support/scenario.js';

// Somebody hears of a run that failed, once, and when it is well again: by a real server on loopback.

interface Told {
  readonly subject: string;
  readonly text: string;
  readonly occasions: readonly string[];
  readonly failures: readonly { readonly vm: string | null; readonly why: string }[];
  readonly recoveries: readonly { readonly vm: string | null }[];
}

interface Answer {
  readonly notifications: readonly {
    readonly notifier: string;
    readonly what: readonly string[];
    readonly failed: string | null;
  }[];
  readonly warnings: readonly { readonly code: string; readonly text: string }[];
}

const SECRET = 'hush-7f3a9c';

let receiver: HttpReceiver;
beforeEach(async () => {
  receiver = await httpReceiver();
  afterTest(() => receiver.close());
});

/** What the webhook was told since it was last asked. */
function told(path = `/${SECRET}`): readonly Told[] {
  return receiver
    .take()
    .filter((each) => each.path === path)
    .map(({ body }) => JSON.parse(body) as Told);
}

async function secretFile(lab: Fleet): Promise<string> {
  const path = join(lab.dir, 'secret');
  await writeFile(path, `${receiver.url}/${SECRET}\n`, { mode: 0o600 });
  return path;
}

/** `web2` is found once it is `well`. */
async function configure(
  lab: Fleet,
  { well, more = '' }: { readonly well: boolean; readonly more?: string },
): Promise<void> {
  const [web1, web2] = [...lab.vms.values()];
  const gone = ['g1', 'g2', 'g3', 'g4'].map((name) => `  ${name}: { socket: ${lab.dir}/no-${name}.qmp }`).join('\n');
  await lab.configure(`
defaults: { target: "${lab.backups}/{vm}" }
vms:
  web1: { socket: ${web1!.socket} }
  web2: { socket: ${well ? web2!.socket : `${lab.dir}/no.qmp`} }
${gone}
run: { retries: 0 }
notify:
  - { name: hook, webhook: { file: ${await secretFile(lab)} } }
${more}`);
}

describe('notifications', () => {
  it('tells of several VMs that fail once, whatever they fail of later, and once that one is well again', async () => {
    const lab = await fleet(['web1', 'web2']);
    await configure(lab, { well: false });
    const first = await lab.cli(3, 'run', '--json');
    const [failed, ...others] = told();
    expect(others).toEqual([]);
    expect(failed!.occasions).toEqual(['failure']);
    expect(failed!.failures.map(({ vm }) => vm).toSorted()).toEqual(['g1', 'g2', 'g3', 'g4', 'web2']);
    expect(failed!.subject).toMatch(/: 5 VMs fail: /);
    expect(failed!.text).toMatch(/g1, since .*: backup failed: .*no-g1\.qmp/);
    expect(first.json<Answer>().notifications).toEqual([
      { notifier: 'hook', kind: 'webhook', what: ['failure'], failed: null },
    ]);

    // Another reason is no other event.
    await mkdir(join(lab.backups, 'g1'));
    await writeFile(join(lab.backups, 'g1', 'catalog.json'), 'broken');
    expect((await lab.cli(3, 'run', '--json')).json<Answer>().notifications).toEqual([]);
    expect(told()).toEqual([]);

    await configure(lab, { well: true });
    await lab.cli(3, 'run');
    const [well, ...more] = told();
    expect(more).toEqual([]);
    expect([well!.occasions, well!.failures, well!.recoveries.map(({ vm }) => vm)]).toEqual([
      ['recovery'],
      [],
      ['web2'],
    ]);
    await lab.cli(3, 'run');
    expect(told()).toEqual([]);
    // Nowhere the secret, but where it comes from.
    const shown = [first.stdout, first.stderr, (await lab.cli(0, 'config', 'check', '--json')).stdout];
    const state = await readdir(join(lab.dir, 'state'), { recursive: true, withFileTypes: true });
    for (const file of state.filter((each) => each.isFile()))
      shown.push(await readFile(join(file.parentPath, file.name), 'utf8'));
    expect(shown.length).toBeGreaterThan(4);
    expect(shown.filter((each) => each.includes(SECRET))).toEqual([]);
  });

  it('tells it later where it could not be told, and a notifier that is broken fails no backup', async () => {
    const lab = await fleet(['web1', 'web2']);
    await configure(lab, { well: false });
    receiver.answer(403, `no access to /${SECRET}`);
    const refused = await lab.cli(3, 'run', '--json');
    expect(told()).toHaveLength(1);
    const { notifications, warnings } = refused.json<Answer>();
    expect(notifications[0]!.failed).toMatch(/answers 403: no access to \*\*\*/);
    expect(warnings.filter(({ code }) => code === 'not-notified')).toHaveLength(1);
    expect(refused.stdout + refused.stderr).not.toContain(SECRET);
    // It is said until it can be told, and by the one who is asked whether all is well.
    expect((await lab.cli(2, 'status')).stderr).toMatch(/hook could not be told since .*403/);

    receiver.answer(200);
    await configure(lab, { well: true });
    await lab.cli(3, 'run');
    const [late, ...others] = told();
    expect(others).toEqual([]);
    // What has healed by then is told as such.
    expect(late!.occasions).toEqual(['failure', 'recovery']);
    expect(late!.failures).toHaveLength(4);
    expect(late!.recoveries.map(({ vm }) => vm)).toEqual(['web2']);
    expect((await lab.cli(2, 'status')).stderr).not.toMatch(/hook/);
    await lab.cli(3, 'run');
    expect(told()).toEqual([]);
    // A backup is as good as before where the notifier is at fault.
    await chmod(join(lab.dir, 'secret'), 0o644);
    await lab.configure(
      (await readFile(lab.config, 'utf8')).replace(/^ {2}(g\d|web2):.*\n/gm, '').replace('] }', ']}'),
    );
    await lab.configure(
      `${await readFile(lab.config, 'utf8')}\n  - { name: always, webhook: { file: ${join(lab.dir, 'secret')} }, on: always }`,
    );
    const unsafe = await lab.cli(0, 'run', '--strict');
    expect(unsafe.stderr).toMatch(/always could not be told \(always\): everybody may read or change the secret/);
  });

  it('tells that a run cannot be remembered, for status would go on telling of an earlier one', async () => {
    const lab = await fleet(['web1']);
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}" }
vms: { web1: { socket: ${lab.vms.get('web1')!.socket} } }
notify:
  - { name: hook, webhook: { file: ${await secretFile(lab)} } }
`);
    await lab.cli(0, 'run');
    expect(told()).toEqual([]);
    const state = join(lab.dir, 'state');
    await rename(state, `${state}.kept`);
    await writeFile(state, 'takes nothing');
    expect((await lab.cli(3, 'run')).stdout).toMatch(/web1 +ok/);
    expect(told().map(({ failures }) => failures)).toMatchObject([
      [{ vm: null, why: expect.stringMatching(/^what came of this run is not remembered: .*state/) as string }],
    ]);
    await rm(state);
    await rename(`${state}.kept`, state);
    await lab.cli(0, 'run');
  });

  it('is told of no recovery until the boot test that failed is passed, however seldom it is made', async () => {
    const lab = await fleet(['web1']);
    const bootBy = (expected: string): Promise<void> =>
      lab.configure(`
defaults:
  target: "${lab.backups}/{vm}"
  verify: { boot-every: 30d, timeout: 2, expect: "${expected}", qemu-arguments: [-accel, tcg] }
vms: { web1: { socket: ${lab.vms.get('web1')!.socket} } }
notify: [{ name: hook, webhook: "${receiver.url}/${SECRET}" }]
`);
    await bootBy('serial:never');
    await lab.cli(1, 'run');
    expect(told().map(({ occasions }) => occasions)).toEqual([['failure']]);
    await lab.cli(1, 'run');
    expect(told()).toEqual([]);
    await bootBy('running:1');
    await lab.cli(0, 'run');
    expect(told().map(({ occasions }) => occasions)).toEqual([['recovery']]);
    await lab.cli(0, 'status');
  });

  it('remembers who was told where another one hangs and the run is killed', async () => {
    const lab = await fleet(['web1', 'web2']);
    const other = await httpReceiver();
    afterTest(() => other.close());
    await configure(lab, { well: false, more: `  - { name: other, webhook: "${other.url}/other" }` });
    other.answer('hang');
    const killed = startCli(['run', '--config', lab.config], { env: lab.env });
    await expect.poll(() => [receiver.got.length, other.got.length]).toEqual([1, 1]);
    const remembered = async (): Promise<string> => {
      const [folder = ''] = await readdir(join(lab.dir, 'state'));
      return readFile(join(lab.dir, 'state', folder, 'notified.json'), 'utf8');
    };
    await expect.poll(remembered).toContain('"hook"');
    killed.kill('SIGKILL');
    await killed;
    other.answer(200);
    await lab.cli(3, 'run');
    expect([told().length, other.got.length]).toEqual([1, 2]);
  });

  it('tells what a run that was killed did not, with the same id, and of a run that was ended', async () => {
    const lab = await fleet(['web1', 'web2']);
    await configure(lab, { well: false, more: `  - { name: dead-man, ping: "${receiver.url}/ping" }` });
    receiver.answer('hang');
    const killed = startCli(['run', '--config', lab.config], { env: lab.env });
    await expect.poll(() => receiver.got.filter(({ path }) => path === `/${SECRET}`)).not.toHaveLength(0);
    killed.kill('SIGKILL');
    await killed;
    const [before] = receiver.take().filter(({ path }) => path === `/${SECRET}`);
    receiver.answer(200);
    await lab.cli(3, 'run');
    const after = receiver.take();
    expect(after.map(({ path }) => path).toSorted()).toEqual([`/${SECRET}`, '/ping/fail', '/ping/start'].toSorted());
    expect(after.find(({ path }) => path === `/${SECRET}`)!.headers['idempotency-key']).toBe(
      before!.headers['idempotency-key'],
    );

    // Ended by a signal: what failed by then is told, the run itself among it, and that it goes well again.
    await configure(lab, { well: true, more: `  - { name: dead-man, ping: "${receiver.url}/ping" }` });
    await lab.configure(
      (await readFile(lab.config, 'utf8')).replace('{vm}" }', '{vm}", speed-limit: 1M, level: full }'),
    );
    for (let time = 0; time < 30; time += 1) await lab.writeAll();
    const ended = startCli(['run', '--config', lab.config], { env: lab.env });
    await expect.poll(() => readdir(lab.backups, { recursive: true })).toContain('web1/run.json');
    ended.kill('SIGTERM');
    expect((await ended).exitCode).toBe(143);
    const last = receiver.take();
    expect(last.map(({ path }) => path).filter((path) => path !== `/${SECRET}`)).toEqual(['/ping/start', '/ping/fail']);
    const [told143] = last.filter(({ path }) => path === `/${SECRET}`).map(({ body }) => JSON.parse(body) as Told);
    expect(told143!.failures.map(({ vm }) => vm)).toEqual([null, 'web1']);
    expect(told143!.failures[0]!.why).toMatch(/interrupted by SIGTERM/);
    await lab.configure(
      (await readFile(lab.config, 'utf8'))
        .replace('speed-limit: 1M, level: full', 'level: auto')
        .replace(/^ {2}g\d:.*\n/gm, ''),
    );
    await lab.cli(0, 'run');
    const well = receiver.take();
    expect(well.map(({ path }) => path).toSorted()).toEqual([`/${SECRET}`, '/ping', '/ping/start'].toSorted());
    const recovered = JSON.parse(well.find(({ path }) => path === `/${SECRET}`)!.body) as Told;
    expect(recovered.recoveries.map(({ vm }) => vm).toSorted()).toEqual([null, 'web1', 'web2'].toSorted());
  });

  it('shows no secret to those who look at processes, logs or what is remembered', async () => {
    const lab = await fleet(['web1']);
    const [password, look, sendmail] = ['password', 'look', 'sendmail'].map((name) => join(lab.dir, name));
    await writeFile(password!, `${SECRET}\n`, { mode: 0o600 });
    // What it looks for is in a file, and so in no command line of its own.
    await writeFile(
      look!,
      `#!/bin/sh\necho looked >>${lab.dir}/looked\ngrep -lFf ${password} /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>${lab.dir}/seen 2>/dev/null\nexit 0\n`,
      { mode: 0o755 },
    );
    await writeFile(sendmail!, `#!/bin/sh\n${look}\ncat >${lab.dir}/mail\n`, { mode: 0o755 });
    const smtp = await smtpReceiver(lab.dir, { implicit: true, user: 'u', password: SECRET });
    afterTest(() => smtp.close());
    const from = `{ file: ${password} }`;
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}" }
vms: { gone: { socket: ${lab.dir}/no.qmp }, web1: { socket: ${lab.vms.get('web1')!.socket} } }
run: { hooks: { before: [${look}], after: [${look}] } }
notify:
  - { webhook: "${receiver.url}/hook", token: ${from} }
  - { sendmail: ${sendmail}, to: root }
  - { smtp: { host: 127.0.0.1, port: ${smtp.port}, tls: implicit, user: u, password: ${from}, ca: ${smtp.ca} }, from: a@example.org, to: b@example.org }
`);
    const logfile = join(lab.dir, 'log');
    const { stdout, stderr } = await lab.cli(3, 'run', '--debug', '--json', '--logfile', logfile);
    expect(receiver.take().map(({ headers }) => headers.authorization)).toEqual([`Bearer ${SECRET}`]);
    expect(smtp.got.map(({ user }) => user)).toEqual(['u']);
    expect(await readFile(join(lab.dir, 'mail'), 'utf8')).toMatch(/gone, since/);
    expect((await readFile(join(lab.dir, 'looked'), 'utf8')).trim().split('\n')).toHaveLength(3);
    expect(await readFile(join(lab.dir, 'seen'), 'utf8')).toBe('');
    const tested = await lab.cli(0, 'notify', 'test', '--debug', '--json');
    const words = [stdout, stderr, tested.stdout, tested.stderr, await readFile(logfile, 'utf8')];
    expect(words.filter((each) => each.includes(SECRET))).toEqual([]);
    // One of three that cannot be told, and all of one.
    await smtp.close();
    await lab.cli(3, 'notify', 'test');
    await lab.cli(1, 'notify', 'test', 'smtp');
    expect((await lab.cli(2, 'notify', 'test', 'smpt')).stderr).toMatch(/Is smtp meant/);
  });
});
