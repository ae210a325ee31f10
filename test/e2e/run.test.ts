import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { MiB } from '../support/builders.js';
import { expectCli, startCli } from '../support/cli.js';
import { type Fleet, fleet, vmsSection } from '../support/fleet.js';
import { compareImages } from '../support/lab/compare.js';
import { flush } from '../support/lab/guest-writes.js';
import { LockChild } from '../support/lock-child.js';
import { mountSmall } from '../support/mounts.js';
import { afterTest } from '../support/scenario.js';

// Many VMs by one configuration: one that fails stops no other, and each is told.

interface Answer {
  readonly vms: readonly {
    readonly vm: string;
    readonly run: { readonly result: string; readonly steps: readonly Step[] };
    readonly failingSince: string | null;
  }[];
  readonly notBegun: readonly string[];
  readonly warnings: readonly { readonly code: string; readonly text: string }[];
}

interface Step {
  readonly verb: string;
  readonly result: string;
  readonly why: string | null;
  readonly summary: string | null;
}

function stepsOf(answer: Answer, vm: string): Record<string, string> {
  const found = answer.vms.find((each) => each.vm === vm);
  return Object.fromEntries((found?.run.steps ?? []).map(({ verb, result }) => [verb, result]));
}

async function expectPointEqualsDisk(lab: Fleet, name: string): Promise<void> {
  const output = join(lab.dir, `restored-${Math.random().toString(36).slice(2)}`);
  await expectCli(0, ['restore', '--target', join(lab.backups, name), '--output', output]);
  const vm = lab.vms.get(name)!;
  await flush(vm, 'd1');
  await compareImages(join(output, 'd1.qcow2'), vm.options.disks[0]!.file!);
  await rm(output, { recursive: true });
}

describe('run', () => {
  it('backs up, prunes and checks each VM of a configuration', async () => {
    const lab = await fleet(['web1', 'db']);
    await lab.configure(`
defaults:
  target: ${lab.backups}/{vm}
  keep: { last: 2, consolidate: true }
  verify: { read-data-within: 2d }
${vmsSection(lab)}
run: { parallel: 2 }
`);
    for (let time = 0; time < 4; time += 1) {
      await lab.writeAll();
      const answer = (await lab.cli(0, 'run', '--json')).json<Answer>();
      expect(answer.vms.map(({ vm, run }) => [vm, run.result]).toSorted()).toEqual([
        ['db', 'ok'],
        ['web1', 'ok'],
      ]);
      // Looked at once a day.
      const looked: Record<string, string> = time === 0 ? { verify: 'ok' } : {};
      expect(stepsOf(answer, 'web1')).toEqual({ backup: 'ok', prune: 'ok', ...looked });
    }
    // What was remembered is no condition of a backup.
    const [folder = ''] = await readdir(join(lab.dir, 'state'));
    await writeFile(join(lab.dir, 'state', folder, 'history.json'), 'no history');
    const anew = (await lab.cli(0, 'run', '--json')).json<Answer>();
    expect(anew.warnings.map(({ code }) => code)).toEqual(['history-lost']);
    expect((await history(lab)).vms).toHaveLength(2);
    for (const name of ['web1', 'db']) {
      const listed = await expectCli(0, ['--json', 'list', '--target', join(lab.backups, name)]);
      expect(listed.json<{ targets: { points: unknown[] }[] }>().targets[0]!.points).toHaveLength(2);
      await expectPointEqualsDisk(lab, name);
    }
  });

  it('goes on where VMs are gone, hang, are locked, have no room or a broken agent, and says of each why', async () => {
    const lab = await fleet(['fine', 'locked', 'full', 'hung', 'agent']);
    const small = join(lab.backups, 'full');
    const space = await mountSmall(small, 512 * 1024);
    await mkdir(join(lab.backups, 'locked'));
    const holder = await LockChild.start();
    afterTest(() => holder.end('SIGKILL'));
    expect(await holder.lock('target', join(lab.backups, 'locked'))).toMatchObject({ locked: true });
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}" }
${vmsSection(lab).replace(/( {2}agent: .*) \}/, `$1, agent-socket: ${lab.dir}/no-such.qga, quiesce: true }`)}
  gone: { socket: ${lab.dir}/no-such.qmp }
  skipped: { socket: ${lab.dir}/no-such-either.qmp, if-off: skip }
run: { parallel: 2, retries: 1, retry-after: 1s }
`);
    await lab.writeAll();
    await space.fill();
    const hung = lab.vms.get('hung')!.pid;
    process.kill(hung, 'SIGSTOP');
    afterTest(() => Promise.resolve(process.kill(hung, 'SIGCONT')));
    const result = await lab.cli(3, 'run', '--json');
    const answer = result.json<Answer>();
    expect(Object.fromEntries(answer.vms.map(({ vm, run }) => [vm, run.result]))).toEqual({
      ...{ fine: 'ok', locked: 'failed', full: 'failed', gone: 'failed', skipped: 'skipped' },
      ...{ hung: 'failed', agent: 'warnings' },
    });
    const why = (vm: string): string => answer.vms.find((each) => each.vm === vm)?.run.steps[0]?.why ?? '';
    expect(why('locked')).toMatch(/is locked by/);
    expect(why('full')).toMatch(/space|No space/i);
    expect(why('hung')).toMatch(/hung\/qmp\.sock/);
    expect(why('gone')).toMatch(/no-such\.qmp/);
    expect(why('skipped')).toBe('it is off');
    expect(result.stderr).toMatch(/locked: backup is tried again in 1 s/);
    expect(result.stderr).not.toMatch(/gone: backup is tried again/);
    await expectPointEqualsDisk(lab, 'fine');
    const status = (await lab.cli(2, 'status')).stdout;
    for (const vm of ['locked', 'full', 'hung', 'gone']) {
      expect(status).toMatch(new RegExp(`critical: ${vm}: backup failed: `));
    }
    expect(status).toMatch(/fine +ok .*\n/);
    expect(status).toMatch(/warning: agent: backup: /);

    await holder.ask('release');
    await space.empty();
    await rm(small, { recursive: true, force: true }).catch(() => undefined);
    const again = (await lab.cli(3, 'run', 'fine', 'locked', 'gone', '--json')).json<Answer>();
    expect(again.vms.map(({ vm, run }) => [vm, run.result]).toSorted()).toEqual([
      ...[
        ['fine', 'ok'],
        ['gone', 'failed'],
        ['locked', 'ok'],
      ],
    ]);
    const gone = again.vms.find(({ vm }) => vm === 'gone');
    expect(gone?.failingSince).toBe((await history(lab)).vms.find(({ vm }) => vm === 'gone')?.failingSince);
    expect(new Date(gone!.failingSince!).getTime()).toBeLessThan(Date.now() - 1_000);
    await lab.cli(1, 'run', 'gone');
  });

  it('prunes also after a backup that found no room, so that the next has some', async () => {
    const lab = await fleet(['web1']);
    const space = await mountSmall(join(lab.backups, 'web1'), 600 * MiB);
    const configure = (keep: string): Promise<void> =>
      lab.configure(`
defaults: { target: "${lab.backups}/{vm}", level: full, force: true, reserve: 1M${keep} }
${vmsSection(lab)}
`);
    await configure('');
    for (let time = 0; time < 4; time += 1) {
      for (let each = 0; each < 4; each += 1) await lab.writeAll();
      await lab.cli(0, 'run');
    }
    await space.fillBut(4 * MiB);
    await configure(', keep: { last: 1 }');
    const full = (await lab.cli(1, 'run', '--json')).json<Answer>();
    expect(stepsOf(full, 'web1')).toEqual({ backup: 'failed', prune: 'ok' });
    expect(stepsOf((await lab.cli(0, 'run', '--json')).json<Answer>(), 'web1')).toEqual({ backup: 'ok', prune: 'ok' });
    await expectPointEqualsDisk(lab, 'web1');
  });

  it('says where there is no VM at all: a pattern may fit nothing', async () => {
    const lab = await fleet([]);
    await lab.configure(`discover: [{ sockets: "${lab.dir}/*.no-such" }]`);
    expect((await lab.cli(2, 'run')).stderr).toMatch(/the configuration has no VM/);
    const { warnings } = (await lab.cli(0, 'config', 'check', '--json')).json<Answer>();
    expect(warnings.map(({ code }) => code)).toEqual(['no-vms']);
  });

  it('says what it would do, and changes nothing', async () => {
    const lab = await fleet(['web1']);
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}", keep: { last: 1 }, verify: { every: 1d } }
${vmsSection(lab)}
`);
    const { stderr, stdout } = await lab.cli(0, 'run', '--dry-run');
    expect(stderr).toMatch(/web1: qmpbackup backup .*--socket=.*--dry-run/);
    expect(stdout).toMatch(/would take point 0 .* d1 FULL, first backup into this target/);
    expect(await readdir(lab.backups)).toEqual([]);
    expect(await readdir(lab.dir)).not.toContain('state');
  });

  it('is one at a time for a configuration, and ends its backups when it is ended', async () => {
    const lab = await fleet(['web1', 'web2']);
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}", speed-limit: 1M }
${vmsSection(lab)}
`);
    for (let time = 0; time < 30; time += 1) await lab.writeAll();
    const first = startCli(['run', '--config', lab.config, '--verbose'], { env: lab.env });
    await expect.poll(() => readdir(lab.backups, { recursive: true })).toContain('web1/run.json');
    const second = await lab.cli(11, 'run');
    expect(second.stderr).toContain(`run of ${lab.config}`);
    first.kill('SIGTERM');
    const { exitCode } = await first;
    expect(exitCode).toBe(143);
    const { vms } = await history(lab);
    expect(vms.map(({ vm }) => vm)).toEqual(['web1']);
    expect(await readdir(lab.backups)).toEqual([]);
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}" }
${vmsSection(lab)}
`);
    await lab.cli(0, 'run');
    await expectPointEqualsDisk(lab, 'web1');
  });

  it('finds VMs by their sockets, and reads the images of one that is off', async () => {
    const lab = await fleet(['web1', 'web2']);
    const file = lab.vms.get('web2')!.options.disks[0]!.file!;
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}" }
vms:
  second: { socket: ${lab.vms.get('web2')!.socket}, offline: { d1: ${file} } }
discover:
  - { sockets: "${lab.dir}/*/qmp.sock" }
`);
    await lab.writeAll();
    expect(
      (await lab.cli(0, 'run', '--json'))
        .json<Answer>()
        .vms.map(({ vm }) => vm)
        .toSorted(),
    ).toEqual(['second', 'web1']);
    await lab.vms.get('web2')!.stop();
    const answer = (await lab.cli(0, 'run', 'second', '--json')).json<Answer>();
    expect(answer.vms[0]?.run.steps[0]?.summary).toMatch(/offline/);
  });
});

async function history(lab: Fleet): Promise<{ vms: { vm: string; failingSince: string | null }[] }> {
  const [folder = ''] = await readdir(join(lab.dir, 'state'));
  return JSON.parse(await readFile(join(lab.dir, 'state', folder, 'history.json'), 'utf8')) as {
    vms: { vm: string; failingSince: string | null }[];
  };
}
