import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { qmpbackup } from '../support/cli.js';
import { domainScenario } from '../support/domain-scenario.js';
import { write } from '../support/lab/guest-writes.js';
import { labDir } from '../support/scenario.js';
import { useLibvirt } from '../support/use-libvirt.js';

// libvirt domains of a configuration: found by their names, running or off, or gone.

const lab = useLibvirt();
const MiB = 1024 * 1024;

interface Answer {
  readonly vms: readonly {
    readonly vm: string;
    readonly run: {
      readonly result: string;
      readonly steps: readonly { readonly why: string | null; readonly summary: string | null }[];
    };
  }[];
  readonly warnings: readonly { readonly code: string }[];
}

describe('run of libvirt domains', () => {
  it('finds them, reads those that are off or leaves them out, and tells of one that is gone', async () => {
    const dir = await labDir();
    const [config, backups] = [join(dir, 'config.yaml'), join(dir, 'backups')];
    await mkdir(backups);
    const web = await domainScenario(lab, { name: 'web' });
    const db = await domainScenario(lab, { name: 'db' });
    await domainScenario(lab, { name: 'scratch' });
    const run = async (exitCode: number, ...more: string[]): Promise<Answer> => {
      const env = { STATE_DIRECTORY: join(dir, 'state'), NO_COLOR: '1' };
      const result = await qmpbackup(['run', '--json', '--config', config, ...more], { env });
      expect(result.exitCode, result.stderr).toBe(exitCode);
      return result.json<Answer>();
    };
    const configure = (ifOff: string, more = ''): Promise<void> =>
      writeFile(
        config,
        `
defaults: { target: "${backups}/{vm}", if-off: ${ifOff}, kill-job: false }
discover:
  - { domains: "*", connect: "${lab.uri}", exclude: [scratch] }
${more}`,
      );
    await configure('offline');
    await write(web.domain, 'vda', { offset: 0, length: MiB, pattern: 0x21 });
    const resultOf = ({ vms }: Answer, name: string): string | undefined =>
      vms.find(({ vm }) => vm === name)?.run.result;
    const first = await run(0);
    expect(first.vms.map(({ vm, run: { result } }) => [vm, result]).toSorted()).toEqual([
      ['db', 'ok'],
      ['web', 'ok'],
    ]);
    await web.expectChainEqualsDisks(join(backups, 'web'));

    await db.domain.destroy();
    const off = await run(0);
    expect(off.vms.find(({ vm }) => vm === 'db')?.run.steps[0]?.summary).toMatch(/offline/);
    await configure('skip');
    expect(resultOf(await run(0), 'db')).toBe('skipped');
    await configure('fail');
    expect(resultOf(await run(3), 'db')).toBe('failed');

    // libvirt is away, and with it all that it would be asked for: nothing is gone, and nothing is well.
    const env = { STATE_DIRECTORY: join(dir, 'state'), NO_COLOR: '1' };
    await lab.stopDaemon('graceful');
    const status = await qmpbackup(['status', '--plugin', '--config', config], { env });
    expect(status.stdout).not.toContain('no longer found');
    expect(status.stdout).toMatch(/^QMPBACKUP CRITICAL - 1 of 2 VMs: db: .*config\.yaml:4: /);
    const blind = await qmpbackup(['run', '--config', config], { env });
    expect([blind.exitCode, blind.stderr]).toEqual([
      1,
      expect.stringMatching(/not all VMs could be found \(there is none\)/),
    ]);
    const unknown = await qmpbackup(['run', 'db', '--config', config], { env });
    expect([unknown.exitCode, unknown.stderr]).toEqual([1, expect.stringMatching(/not all VMs could be found \(db\)/)]);
    await lab.startDaemon();

    await configure('offline', `vms: { lost: { domain: no-such-domain, connect: "${lab.uri}" } }`);
    const lost = await run(3);
    expect(lost.vms.find(({ vm }) => vm === 'lost')?.run.steps[0]?.why).toMatch(/no domain no-such-domain/);

    await configure('offline', `  - { domains: "*", connect: "qemu+unix:///session?socket=${dir}/nobody" }`);
    const partly = await run(3);
    expect(partly.vms.map(({ vm }) => vm).toSorted()).toEqual(['db', 'web']);
    expect(partly.warnings.map(({ code }) => code)).toContain('not-discovered');
  });
});
