import { chmod, chown, mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { describe, expect, it } from 'vitest';
import { expectCli, PROGRAM, qmpbackup } from '../support/cli.js';
import { fleet, type Fleet, vmsSection } from '../support/fleet.js';
import { imagesIn } from '../support/target-files.js';
import { makeUpTarget } from '../support/made-up-targets.js';
import { asNobody, openTo } from '../support/nobody.js';
import { mountHanging } from '../support/mounts.js';
import { labDir } from '../support/scenario.js';

// Whether all is well, from the targets and from how the last runs went; with exit codes of its own.

interface Answer {
  readonly level: string;
  readonly vms: readonly {
    readonly vm: string;
    readonly level: string;
    readonly reasons: readonly { readonly level: string; readonly text: string }[];
    readonly points: number | null;
    readonly chainPoints: number | null;
    readonly allocated: number | null;
    readonly lastGood: { readonly number: number } | null;
    readonly backup: { readonly bytes: number } | null;
  }[];
}

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

async function statusOf(
  lab: Fleet,
  exitCode: number,
  ...more: readonly string[]
): Promise<Record<string, Answer['vms'][number]>> {
  const answer = (await lab.cli(exitCode, 'status', '--json', ...more)).json<Answer>();
  return Object.fromEntries(answer.vms.map((each) => [each.vm, each]));
}

describe('status', () => {
  it('follows the runs of a configuration: nothing yet, well, too old, failed, damaged, gone', async () => {
    const lab = await fleet(['web1', 'db']);
    const config = (vms: string): string => `
defaults: { target: "${lab.backups}/{vm}", max-age: 26h }
${vms}
`;
    await lab.configure(config(vmsSection(lab)));
    const before = await statusOf(lab, 2);
    expect(before['web1']?.reasons[0]?.text).toMatch(/no catalog|no backup|not there/i);

    for (let time = 0; time < 2; time += 1) {
      await lab.writeAll();
      await lab.cli(0, 'run');
    }
    const well = await statusOf(lab, 0);
    expect(well['web1']).toMatchObject({
      level: 'ok',
      reasons: [],
      points: 2,
      chainPoints: 2,
      lastGood: { number: 1 },
    });
    expect(well['web1']?.backup?.bytes).toBe(1024 * 1024);
    const text = (await lab.cli(0, 'status')).stdout;
    expect(text).toMatch(/web1 +ok +.* 2 +2 /);
    const plugin = (await lab.cli(0, 'status', '--plugin')).stdout;
    expect(plugin).toMatch(
      /^QMPBACKUP OK - 2 VMs \| vms=2 ok=2 warning=0 critical=0 'age web1'=\d+s;93600 'age db'=\d+s;93600$/,
    );

    await lab.configure(config(vmsSection(lab)).replace('26h', '0.0001h'));
    expect((await statusOf(lab, 1))['db']).toMatchObject({
      level: 'warning',
      reasons: [{ text: expect.stringMatching(/are allowed/) as string }],
    });

    await lab.configure(config(vmsSection(lab)));
    await lab.vms.get('db')!.stop();
    await lab.cli(3, 'run');
    const failed = await statusOf(lab, 2);
    expect(failed['web1']?.level).toBe('ok');
    expect(failed['db']).toMatchObject({ level: 'critical', points: 2 });
    expect(failed['db']?.reasons[0]?.text).toMatch(/^backup failed: cannot connect/);
    expect((await lab.cli(2, 'status', '--plugin')).stdout).toMatch(
      /^QMPBACKUP CRITICAL - 1 of 2 VMs: db: backup failed/,
    );

    const [newest] = (await imagesIn(join(lab.backups, 'web1/d1')))
      .filter((name) => /INC/.test(name))
      .toSorted()
      .toReversed();
    await truncate(join(lab.backups, 'web1/d1', newest!), 1024);
    expect((await statusOf(lab, 2))['web1']).toMatchObject({
      level: 'warning',
      reasons: [{ text: expect.stringMatching(/^1 point cannot be restored: d1\/INC.* 1024 bytes/) as string }],
      lastGood: { number: 1 },
    });

    await lab.configure(config(`vms: { web1: { socket: ${lab.vms.get('web1')!.socket} } }`));
    expect((await statusOf(lab, 2))['db']?.reasons[0]?.text).toMatch(/no longer found/);
    await rm(join(lab.backups, 'db'), { recursive: true });
    expect(Object.keys(await statusOf(lab, 1))).toEqual(['web1']);
  });

  it('judges a target that goes on under another name as that of the VM that has it now', async () => {
    const lab = await fleet(['web1']);
    const { socket } = lab.vms.get('web1')!;
    const named = (name: string, target: string): string =>
      `vms: { ${name}: { socket: ${socket}, target: ${target} } }`;
    await lab.configure(named('web1', join(lab.backups, 'web1')));
    await lab.cli(0, 'run');
    await lab.configure(named('www', join(lab.backups, 'web1')));
    expect(Object.keys(await statusOf(lab, 0))).toEqual(['www']);
    await lab.cli(0, 'run');
    expect(await statusOf(lab, 0)).toMatchObject({ www: { points: 2, reasons: [] } });
    // Another target: that of the old name is backed up by nothing.
    await lab.configure(named('www', join(lab.backups, 'www')));
    await lab.cli(0, 'run');
    expect(Object.keys(await statusOf(lab, 2))).toEqual(['www', 'web1']);
    // With monthly the folder is called as the VM.
    const monthly = (name: string): string =>
      `vms: { ${name}: { socket: ${socket}, target: ${lab.dir}/months, monthly: true, vm-name: web1 } }`;
    await lab.configure(monthly('m1'));
    await rm(join(lab.backups), { recursive: true });
    await lab.cli(0, 'run');
    await lab.configure(monthly('m2'));
    expect(Object.keys(await statusOf(lab, 0))).toEqual(['m2']);
  });

  it('judges the age by points of this time, whatever the clock was when another was made', async () => {
    const lab = await fleet(['web1']);
    await lab.configure(`defaults: { target: "${lab.backups}/{vm}", max-age: 26h }\n${vmsSection(lab)}`);
    const now = Date.now();
    await lab.at(now).cli(0, 'run');
    // A year too late, and right again.
    await lab.at(now + 365 * DAY_MS).cli(0, 'run');
    await lab.at(now + HOUR_MS).cli(0, 'run');
    const { stdout } = await lab.at(now + 40 * HOUR_MS).cli(1, 'status', '--json');
    const [web1] = (JSON.parse(stdout) as Answer).vms;
    expect(web1).toMatchObject({ points: 3, lastGood: { number: 2 } });
    expect(web1!.reasons.map(({ text }) => text)).toEqual([
      'the newest good point is 38 h old, 26 h are allowed',
      expect.stringMatching(/^a good point is dated 36[34] d in the future/),
    ]);
    // Before all of them, and an hour before the last.
    for (const at of [now - 365 * DAY_MS, now]) {
      const metrics = (await lab.at(at).cli(1, 'status', '--prometheus', '-')).stdout;
      expect(metrics).toMatch(/^qmpbackup_last_good_point_age_seconds\{.*\} 0$/m);
    }
  });

  it('of targets judges their age where it was told how old is too old', async () => {
    const lab = await fleet(['web1']);
    await lab.configure(`defaults: { target: "${lab.backups}/{vm}" }\n${vmsSection(lab)}`);
    await lab.cli(0, 'run');
    const ask = ['status', '--target', lab.backups];
    expect((await expectCli(0, ask)).stdout).toMatch(/web1 +ok/);
    await expectCli(1, [...ask, '--max-age', '0.0001h']);
    await expectCli(2, [...ask, '--target', join(lab.dir, 'nothing-here')]);
    // One below the other is no VM of its own.
    const twice = await expectCli(0, [...ask, '--target', join(lab.backups, 'web1'), '--json']);
    expect(twice.json<{ vms: readonly unknown[] }>().vms).toHaveLength(1);
  });

  it('writes metrics that promtool takes, whole and readable by the collector', async () => {
    const lab = await fleet(['web1']);
    await lab.configure(
      `defaults: { target: "${lab.backups}/{vm}", keep: { last: 1 }, verify: { every: 1d }, max-age: 1d }\n${vmsSection(lab)}`,
    );
    await lab.cli(0, 'run');
    const file = join(lab.dir, 'qmpbackup.prom');
    await lab.cli(0, 'status', '--prometheus', file);
    const text = await readFile(file, 'utf8');
    const checked = await execa('promtool', ['check', 'metrics'], { input: text, reject: false });
    expect(`${checked.stdout}${checked.stderr}`).toBe('');
    expect(checked.exitCode).toBe(0);
    expect(text).toMatch(/^qmpbackup_step_success\{vm="web1",target=".*",verb="verify"\} 1$/m);
    expect(text).toMatch(/^qmpbackup_last_good_point_timestamp_seconds\{.*\} \d{10}(\.\d+)?$/m);
    const { stdout } = await lab.cli(0, 'status', '--prometheus', '-');
    expect(stdout.split('\n').filter((line) => line.startsWith('# TYPE'))).toEqual(
      text.split('\n').filter((line) => line.startsWith('# TYPE')),
    );
  });

  it('tells of a target that hangs, and of the others', async () => {
    const lab = await fleet(['web1', 'web2']);
    const target = await mountHanging(join(lab.backups, 'web2'));
    await lab.configure(`defaults: { target: "${lab.backups}/{vm}" }\n${vmsSection(lab)}`);
    await lab.cli(0, 'run');
    target.hang();
    const found = await statusOf(lab, 2);
    expect(found['web1']?.level).toBe('ok');
    expect(found['web2']?.reasons[0]?.text).toMatch(/does not answer/);
    target.answer();
    await statusOf(lab, 0);
  });

  it('of a folder of targets names those that it may not look into, and judges the others', async () => {
    const dir = await labDir();
    const all = join(dir, 'backups');
    for (const name of ['web1', 'web2']) {
      makeUpTarget({ dir: join(all, name), name, points: 3, newest: new Date().toISOString() });
    }
    await mkdir(join(all, 'web2/2026-11'));
    await openTo(dir);
    await mkdir(join(all, 'secret'), { mode: 0o700 });
    await chown(join(all, 'web2/2026-11'), 0, 0);
    await chmod(join(all, 'web2/2026-11'), 0o700);
    const asked = await asNobody({})(['status', '--json', '--target', all]);
    expect(asked.exitCode).toBe(2);
    const { vms } = JSON.parse(asked.stdout) as Answer;
    expect(vms.map(({ vm, level, reasons }) => [vm, level, reasons[0]?.text ?? ''])).toEqual([
      ['secret', 'critical', expect.stringMatching(/secret.*permission denied for user nobody/)],
      ['web1', 'ok', ''],
      ['web2', 'ok', ''],
    ]);
  });

  it('of a configuration of root asks for the runs of root, whoever asks, and says where it may not', async () => {
    const dir = await labDir();
    const target = join(dir, 'web1');
    makeUpTarget({ dir: target, name: 'web1', points: 3, newest: new Date().toISOString() });
    const config = join(dir, 'config.yaml');
    await writeFile(
      config,
      `vms: { web1: { socket: ${join(dir, 'none')}, target: ${target} } }\nrun: { retries: 0 }\n`,
    );
    await openTo(target);
    await chmod(dir, 0o755);
    // The folder where root's runs are remembered, of this test alone.
    const ask = async (between: string) => {
      const steps = `mount -t tmpfs -o mode=0755 qmplab /var/lib; ${between}; exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"`;
      const status = [process.execPath, PROGRAM, 'status', '--plugin', '--config', config];
      const env = { NODE: process.execPath, PROGRAM, CONFIG: config, HOME: '/nonexistent', NO_COLOR: '1' };
      const { exitCode, stdout } = await execa('unshare', ['--mount', 'sh', '-c', steps, 'sh', ...status], {
        ...{ reject: false, env },
      });
      return { exitCode, stdout };
    };
    expect((await ask(':')).exitCode).toBe(0);
    const failing = '"$NODE" "$PROGRAM" run --config "$CONFIG" >/dev/null 2>&1';
    expect(await ask(failing)).toEqual({
      exitCode: 1,
      stdout: expect.stringMatching(
        /^QMPBACKUP WARNING - 1 VM; how earlier runs went is not known: .*\/var\/lib\/qmpbackup\/.*permission denied for user nobody/,
      ) as string,
    });
    expect(await ask(`${failing}; chmod -R a+rX /var/lib/qmpbackup`)).toEqual({
      exitCode: 2,
      stdout: expect.stringMatching(/^QMPBACKUP CRITICAL - 1 of 1 VM: web1: backup failed: cannot connect/) as string,
    });
  });

  it('ends with 3 where it cannot be asked', async () => {
    const dir = await labDir();
    const config = join(dir, 'config.yaml');
    await writeFile(config, 'vmz: 1');
    const empty = join(dir, 'empty.yaml');
    await writeFile(empty, '');
    for (const args of [
      ['--bogus'],
      ['--config', config],
      ['--config', join(dir, 'none')],
      ['--max-age', 'x'],
      ['--config', config, '--target', dir],
      ['--prometheus', ''],
      ['--logfile', join(dir, 'none/log')],
      ['--config', empty],
    ]) {
      expect((await qmpbackup(['status', ...args])).exitCode, args.join(' ')).toBe(3);
      const line = await qmpbackup(['status', '--plugin', ...args]);
      expect(line.stdout, args.join(' ')).toMatch(/^QMPBACKUP UNKNOWN - [^\n|]+$/);
      expect(line.exitCode).toBe(3);
    }
    expect((await qmpbackup(['status', '--plugin', '--config', config])).stdout).toMatch(
      /^QMPBACKUP UNKNOWN - .*vmz is no key/,
    );
    const error = (await qmpbackup(['status', '--json', '--config', config])).json<{
      error: { exitCode: number; code: string };
    }>();
    expect(error.error).toMatchObject({ exitCode: 3, code: 'usage' });
    expect((await qmpbackup(['status', '--help'])).exitCode).toBe(0);
    // All others have the codes that they had.
    expect((await qmpbackup(['list', '--bogus'])).exitCode).toBe(2);
  });
});
