import { mkdir, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { startCli } from '../support/cli.js';
import { fleet, vmsSection } from '../support/fleet.js';
import { run } from '../support/lab/programs.js';
import { startRelay } from '../support/qmp-relay.js';
import { afterTest } from '../support/scenario.js';
import { straysOf } from '../support/target-files.js';

// A run that ends before its time, told or killed: what it has started ends with it and takes back what it has begun, and the next
// run finds nobody at work.

interface Answer {
  readonly vms: readonly { readonly vm: string; readonly run: { readonly result: string } }[];
}

describe.each([
  { signal: 'SIGINT', exitCode: 130, told: true },
  { signal: 'SIGTERM', exitCode: 143, told: true },
  { signal: 'SIGKILL', exitCode: undefined, told: false },
] as const)('$signal in the middle of a backup', ({ signal, exitCode, told }) => {
  it('ends the backup, too, and the next run backs up as if nothing had been', async () => {
    const lab = await fleet(['web1', 'web2']);
    const section = vmsSection(lab);
    await lab.configure(`defaults: { target: "${lab.backups}/{vm}" }\n${section}`);
    await lab.cli(0, 'run');
    await lab.writeAll();

    const web1 = lab.vms.get('web1')!;
    const relay = await startRelay(join(lab.dir, 'relay.sock'), web1.socket);
    afterTest(() => relay.close());
    await lab.configure(
      `defaults: { target: "${lab.backups}/{vm}" }\n${section.replace(web1.socket, relay.socket)}\nrun: { parallel: 1 }`,
    );
    const tool = startCli(['run', '--config', lab.config], { env: lab.env });
    await Promise.race([
      relay.held,
      tool.then(({ stderr }) => Promise.reject(new Error(`it ended before the transaction: ${stderr}`))),
    ]);
    tool.kill(signal);
    relay.letGo();
    expect((await tool).exitCode).toBe(exitCode);
    await expect
      .poll(async () => (await run('pgrep', ['-f', lab.dir + '/backups'], { allowed: [0, 1] })).stdout)
      .toBe('');
    await expect.poll(() => web1.control.execute('query-jobs')).toEqual([]);
    expect(straysOf(await readdir(lab.backups, { recursive: true }))).toEqual([]);
    // Taken back, although nobody was there to hear of it.
    expect(JSON.parse(await readFile(join(lab.backups, 'web1/catalog.json'), 'utf8'))).toHaveProperty(
      'points.length',
      1,
    );
    if (told) {
      // The second was not begun.
      const { stdout } = await lab.cli(2, 'status');
      expect(stdout).toMatch(/web1.*interrupted by SIG/s);
    }

    await lab.configure(`defaults: { target: "${lab.backups}/{vm}" }\n${section}\nrun: { retries: 0 }`);
    const next = (await lab.cli(0, 'run', '--json')).json<Answer>();
    expect(next.vms.map(({ vm, run: { result } }) => [vm, result]).toSorted()).toEqual([
      ['web1', 'ok'],
      ['web2', 'ok'],
    ]);
    await lab.cli(0, 'status');
  });
});

describe.each([
  { step: 'prune', line: /qmpbackup prune /, signals: ['SIGTERM'], exitCode: 143 },
  { step: 'verify', line: /qmpbackup verify .*--read-data/, signals: ['SIGTERM', 'SIGTERM'], exitCode: 143 },
  { step: 'boot test', line: /qmpbackup verify .*--boot/, signals: ['SIGINT', 'SIGINT'], exitCode: 130 },
  { step: 'boot test', line: /qmpbackup verify .*--boot/, signals: ['SIGKILL'], exitCode: undefined },
  { step: 'prune', line: /qmpbackup prune /, signals: ['SIGKILL'], exitCode: undefined },
] as const)('$signals once the $step is begun', ({ line, signals, exitCode }) => {
  it('leaves nothing behind, is remembered, and the next run goes on', async () => {
    const lab = await fleet(['web1']);
    const TMPDIR = join(lab.dir, 't');
    await mkdir(TMPDIR);
    const configure = (verify: string): Promise<void> =>
      lab.configure(`
defaults:
  target: "${lab.backups}/{vm}"
  keep: { last: 1, consolidate: true }
  verify: { ${verify} }
${vmsSection(lab)}
`);
    await configure('');
    await lab.writeAll();
    await lab.cli(0, 'run');
    await lab.writeAll();
    // It boots nothing, so that the run ends by the signal at the latest in its last step.
    await configure('read-data-within: 1d, boot-every: 1d, expect: "serial:never", timeout: 3600');
    const tool = startCli(['run', '--verbose', '--config', lab.config], { env: { ...lab.env, TMPDIR } });
    let said = '';
    tool.stderr.on('data', (text: Buffer) => (said += text.toString()));
    await expect.poll(() => said).toMatch(line);
    await sleep(Math.random() * 1_000);
    for (const signal of signals) process.kill(tool.pid!, signal);
    expect((await tool).exitCode).toBe(exitCode);

    const left = async (): Promise<string> =>
      (await run('pgrep', ['-af', `${lab.backups}|${TMPDIR}`], { allowed: [0, 1] })).stdout;
    await expect.poll(left).toBe('');
    await expect.poll(() => readdir(TMPDIR)).toEqual([]);
    expect(straysOf(await readdir(lab.backups, { recursive: true }))).toEqual([]);
    if (exitCode !== undefined) expect((await lab.cli(2, 'status')).stdout).toMatch(/interrupted by SIG/);
    await configure('read-data-within: 1d');
    await lab.cli(0, 'run');
    await lab.cli(0, 'status');
  });
});
