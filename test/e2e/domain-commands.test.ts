import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { expectCli } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { crashCli } from '../support/crash-point.js';
import { type DomainScenario, domainScenario, domainWithFull, writeBothDisks } from '../support/domain-scenario.js';
import { createImage } from '../support/lab/disk-images.js';
import { run } from '../support/lab/programs.js';
import { useLibvirt } from '../support/use-libvirt.js';

const MiB = 1024 * 1024;

interface CleanupAnswer {
  readonly bitmaps: readonly { readonly where: string; readonly bitmap: string; readonly removed: boolean }[];
  readonly needFull: readonly string[];
}

const lab = useLibvirt();
let scenario: DomainScenario;
beforeAll(async () => {
  scenario = await domainWithFull(lab);
});

const inFull = ({ vm, target }: DomainScenario, ...command: string[]): string[] => [
  ...vm,
  ...command,
  '--target',
  target,
];

async function addCheckpoint({ domain }: DomainScenario, name: string): Promise<void> {
  const file = join(lab.dir, 'checkpoint.xml');
  const disks = ['vda', 'vdb'].map((disk) => `<disk name='${disk}' checkpoint='bitmap'/>`).join('');
  await writeFile(file, `<domaincheckpoint><name>${name}</name><disks>${disks}</disks></domaincheckpoint>`);
  await lab.virsh(['checkpoint-create', domain.uuid, file]);
}

async function cleanup({ vm }: DomainScenario, ...more: string[]): Promise<CleanupAnswer> {
  return (await expectCli(0, ['--json', ...vm, 'cleanup', '--remove-bitmaps', ...more])).json<CleanupAnswer>();
}

const removed = ({ bitmaps }: CleanupAnswer): string[] => [
  ...new Set(bitmaps.filter((each) => each.removed).map(({ bitmap }) => bitmap)),
];

/** The lock of a dead run goes when its target is looked at. */
const isNoLock = (file: string): boolean => !file.startsWith('.lock');

/** Runs what must change nothing of a domain's checkpoints and target. */
async function unchanged(of: DomainScenario, body: () => Promise<void>): Promise<void> {
  const seen = async () => [await of.checkpoints(), (await readdir(of.target, { recursive: true })).filter(isNoLock)];
  const before = await seen();
  await body();
  expect(await seen()).toEqual(before);
}

describe('info --domain', () => {
  it('shows disks, checkpoints and jobs as of any VM, of a domain that runs, is paused or off', async () => {
    const { vm, domain } = scenario;
    const [checkpoint] = await scenario.checkpoints();
    await unchanged(scenario, async () => {
      const { stdout } = await expectCli(0, [...vm, 'info']);
      expect(stdout).toMatch(/^vda +vda +virtio-disk0 +vda +qcow2 +64\.0 MiB .*-vda\.qcow2$/m);
      expect((await expectCli(0, [...vm, 'info', '--show', 'jobs'])).stdout).toContain('no jobs');
      const bitmaps = await expectCli(0, [...vm, 'info', '--show', 'bitmaps']);
      expect(bitmaps.stdout).toMatch(new RegExp(`^vdb +${checkpoint} .*persistent`, 'm'));
      expect(bitmaps.stdout).toContain(`--domain ${domain.name} cleanup`);
      const byUuid = ['--json', '--connect', lab.uri, '--domain', domain.uuid, 'info', '--show', 'bitmaps'];
      expect((await expectCli(0, byUuid)).json()).toMatchObject({
        ...{ schema: 1, command: 'info', show: 'bitmaps', tracked: ['vda', 'vdb'] },
        vm: {
          ...{ machine: { name: domain.name, uuid: domain.uuid }, status: 'running' },
          disks: [{ bitmaps: [{ name: checkpoint, inconsistent: false, persistent: true }] }, {}],
        },
      });
    });
    await lab.virsh(['suspend', domain.uuid]);
    expect((await expectCli(0, ['--json', ...vm, 'info'])).json()).toMatchObject({ vm: { status: 'paused' } });
    await domain.destroy();
    const off = await expectCli(0, [...vm, 'info', '--show', 'bitmaps']);
    expect(off.stdout).toMatch(new RegExp(`^vdb +${checkpoint} +- +persistent$`, 'm'));
    await domain.start();
  });
});

describe('doctor --domain', () => {
  it('finds nothing wrong with a healthy domain and target, and changes nothing', async () => {
    await unchanged(scenario, async () => {
      const { stdout } = await expectCli(0, inFull(scenario, 'doctor'));
      expect(stdout).toMatch(/^info {5}VM: libvirt \d\S* with QEMU \d\S*; the domain is running/m);
      expect(stdout).toMatch(/^warning {2}agent: no agent is connected/m);
      expect(stdout).toMatch(/^info {5}scratch: .*\/images has .* free for scratch images of up to 128 MiB$/m);
      expect(stdout).toMatch(/^info {5}vda: the next backup is INC: changes since FULL-/m);
      expect(stdout).toContain('0 errors, 1 warning');
      const json = (await expectCli(0, ['--json', ...scenario.vm, 'doctor'])).json();
      expect(json).toMatchObject({ facts: { domain: { active: true, agent: { channel: 'disconnected' } } } });
    });
  });

  it('--dry-run finds the agent missing as a run would', async () => {
    await unchanged(scenario, async () => {
      const rehearsal = [...scenario.vm, 'backup', '--level', 'inc', '--dry-run', '--target', scenario.target];
      const { stderr } = await expectCli(1, [...rehearsal, '--quiesce=require']);
      expect(stderr).toMatch(
        /--quiesce=require: the guest cannot be frozen: .*agent is not connected.*\n.*Nothing was/,
      );
      const tried = await expectCli(0, [...rehearsal, '--quiesce']);
      expect(tried.stderr).toMatch(/agent is not connected; the point is marked crash/);
    });
  });

  it('says what is worse than expected: odd disks, checkpoints and snapshots, a job of somebody else, being off', async () => {
    const images = join(lab.dir, 'images');
    const image = async (name: string, format: 'qcow2' | 'raw' = 'qcow2'): Promise<string> => {
      await createImage({ file: join(images, name), format, size: 16 * MiB });
      return join(images, name);
    };
    const disks = [
      { target: 'vda', file: await image('odd-a.qcow2') },
      { target: 'vdb', file: await image('odd-b.qcow2') },
      { target: 'vdc', file: await image('odd-c.raw', 'raw'), format: 'raw' as const, xml: '<shareable/>' },
      { target: 'vdd', file: await image('odd-d.raw', 'raw'), format: 'raw' as const, xml: '<shareable/>' },
      { target: 'vde', file: join(images, 'odd-d.raw'), format: 'raw' as const, xml: '<shareable/>' },
      { target: 'hda', device: 'cdrom' as const },
    ];
    const odd = await domainScenario(lab, { name: 'odd', disks });
    const vm = ['--connect', lab.uri, '--domain', 'odd'];
    await addCheckpoint(odd, 'virtnbdbackup.0');
    const args = [...vm, 'doctor', '--fleece-dir', join(lab.dir, 'nowhere')];
    const job = join(lab.dir, 'job.xml');
    const scratch = join(images, 'foreign.scratch');
    const socket = join(lab.dir, 'foreign.sock');
    await writeFile(
      job,
      `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/><disks><disk name='vda' backupmode='full' type='file'><scratch file='${scratch}'/></disk></disks></domainbackup>`,
    );
    await lab.virsh(['backup-begin', odd.domain.uuid, job]);
    const { stdout } = await expectCli(1, args);
    expect(stdout).toMatch(/^error {4}VM: .*one job .*backup.* -> .*virsh .*domjobinfo odd/m);
    expect(stdout).toMatch(/^error {4}scratch: cannot make scratch images in .*nowhere.* -> .*--fleece-dir/m);
    expect(stdout).toMatch(/^warning {2}vdc: left out of backups: shareable: other VMs may write to it/m);
    expect(stdout).toMatch(/^warning {2}vde: left out of backups: its image is also that of vdd/m);
    expect(stdout).toMatch(/^info {5}hda: left out of backups/m);
    expect(stdout).toMatch(/^info {5}VM: checkpoints of others are left alone: virtnbdbackup\.0$/m);
    expect((await expectCli(0, [...vm, 'info', '--show', 'jobs'])).stdout).toMatch(
      /^job of the domain +backup +running/m,
    );
    await lab.virsh(['domjobabort', odd.domain.uuid]);

    await odd.domain.destroy();
    const off = await expectCli(0, [...vm, 'doctor']);
    expect(off.stdout).toMatch(/^info {5}VM: it is off: /m);
    expect(off.stdout).not.toContain('scratch');
  });
});

describe('recover --domain', () => {
  it('repairs what a dead run left, says so first, and the next backup is incremental', async () => {
    await writeBothDisks(scenario, 20, 0x21);
    const step = { when: 'after', call: 'spawn', matches: /^setpriv .*qemu-nbd/, guards: 'die' } as const;
    await crashCli(step, inFull(scenario, 'backup', '--level', 'inc'));
    await unchanged(scenario, async () => {
      expect((await expectCli(0, inFull(scenario, 'doctor'))).stdout).toMatch(/^warning {2}target: a run that died/m);
      const { stdout } = await expectCli(0, inFull(scenario, 'recover', '--dry-run'));
      expect(stdout).toMatch(/died before its point was sealed/);
      expect(stdout).toMatch(/would cancel the job qmpbackup-/);
      expect(stdout).toMatch(/would remove the bitmap qmpbackup-\S+ from vdb: made by the run of/);
    });
    expect(await scenario.checkpoints()).toHaveLength(2);
    const { stdout } = await expectCli(0, inFull(scenario, 'recover'));
    expect(stdout).toMatch(/removed run\.json/);
    await scenario.expectNothingLeft(1);
    expect((await expectCli(0, inFull(scenario, 'recover'))).stdout).toBe('nothing to repair');
    expect((await scenario.backup('inc')).point.level).toBe('inc');
  });

  it('takes back the checkpoints that libvirt forgot', async () => {
    const before = await scenario.checkpoints();
    for (const name of before) await lab.virsh(['checkpoint-delete', scenario.domain.uuid, name, '--metadata']);
    expect((await expectCli(0, inFull(scenario, 'doctor'))).stdout).toMatch(
      /^warning {2}target: libvirt has forgotten/m,
    );
    const dry = await expectCli(0, inFull(scenario, 'backup', '--level', 'inc', '--dry-run'));
    expect(dry.stdout).toContain('INC');
    const { stdout } = await expectCli(0, inFull(scenario, 'recover'));
    expect(stdout).toMatch(new RegExp(`told libvirt again of the checkpoint ${before[0]} on vda, vdb`));
    expect([...(await scenario.checkpoints())].sort()).toEqual([...before].sort());
  });

  it('ends the job of a dead run while the domain is off: its bitmap goes from the images, too', async () => {
    await writeBothDisks(scenario, 22, 0x22);
    const step = { when: 'after', call: 'spawn', matches: /^setpriv .*qemu-nbd/, guards: 'die' } as const;
    await crashCli(step, inFull(scenario, 'backup', '--level', 'inc'));
    await scenario.domain.destroy();
    await expectCli(0, inFull(scenario, 'recover'));
    const needed = await scenario.checkpoints();
    const { stdout } = await run('qemu-img', ['info', scenario.fileOf('vda')]);
    expect(stdout.match(/qmpbackup-\S+/g)?.sort()).toEqual([...needed].sort());
    await scenario.domain.start();
    expect((await scenario.backup('inc')).point.level).toBe('inc');
    await scenario.expectChainEqualsDisks();
    await scenario.expectNothingLeft(2);
  });
});

describe('cleanup --domain', () => {
  it('--stale removes what no file of the target needs, and never what belongs to others', async () => {
    const { targetId } = (await expectCli(0, ['--json', 'list', '--target', scenario.target])).json<{
      targets: [{ targetId: string }];
    }>().targets[0];
    const lost = `qmpbackup-${targetId}-of-a-lost-run`;
    for (const name of [lost, 'virtnbdbackup.0', 'qmpbackup-ffffffffffffffff-c1']) await addCheckpoint(scenario, name);
    const before = await scenario.checkpoints();
    expect(removed(await cleanup(scenario, '--dry-run', '--stale', '--target', scenario.target))).toEqual([lost]);
    expect(await scenario.checkpoints()).toEqual(before);
    const done = await cleanup(scenario, '--stale', '--target', scenario.target);
    expect(removed(done)).toEqual([lost]);
    expect(done.needFull).toEqual([]);
    expect(removed(await cleanup(scenario, '--uuid', 'ffffffffffffffff'))).toEqual(['qmpbackup-ffffffffffffffff-c1']);
    expect((await scenario.backup('inc')).point.level).toBe('inc');
  });

  it('removes all of ours, those that libvirt forgot and those of a domain that is off; the next backup is full', async () => {
    const { domain } = scenario;
    const ours = (await scenario.checkpoints()).filter((name) => name.startsWith('qmpbackup-'));
    expect(ours).toHaveLength(2);
    const bitmaps = async (): Promise<string> => (await run('qemu-img', ['info', '-U', scenario.fileOf('vda')])).stdout;
    await domain.destroy();
    expect(removed(await cleanup(scenario, '--uuid', ours[0]!))).toEqual([ours[0]]);
    expect(await bitmaps()).not.toContain(ours[0]);
    await lab.virsh(['checkpoint-delete', domain.uuid, ours[1]!, '--metadata']);
    await domain.start();
    expect(await bitmaps()).toContain(ours[1]);
    const done = await cleanup(scenario);
    expect(removed(done)).toEqual([ours[1]]);
    expect(done.needFull).toHaveLength(1);
    expect(await scenario.checkpoints()).toEqual(['virtnbdbackup.0']);
    expect(await bitmaps()).not.toContain('qmpbackup-');
    expect(levelsOf(await scenario.backup('auto'))).toEqual(['vda inc by comparison', 'vdb inc by comparison']);
  });
});

describe('a VM that is named in a way that cannot be', () => {
  it('is refused by every command, with the option to use', async () => {
    const folder = join(lab.dir, 'a-folder');
    await mkdir(folder);
    const commands = [['info'], ['doctor'], ['recover', '--target', folder], ['cleanup', '--remove-bitmaps']];
    for (const command of commands) {
      const told = command[0] === 'doctor' ? 1 : 12;
      const unknown = ['--connect', lab.uri, '--domain', 'no such thing', ...command];
      const { stdout, stderr } = await expectCli(told, unknown);
      expect(stdout + stderr).toContain('no such thing');
    }
    const nowhere = ['--connect', 'qemu+unix:///system?socket=/nowhere', '--domain', 'a'];
    expect((await expectCli(12, [...nowhere, 'cleanup', '--remove-bitmaps'])).stderr).toContain('/nowhere');
    expect((await expectCli(2, ['--socket', '/run/x', '--domain', 'a', 'info'])).stderr).toContain('name a VM each');
    expect(await readdir(folder)).toEqual([]);
    await rm(folder, { recursive: true });
  });

  it('and sockets of libvirt are refused: monitor and guest agent', async () => {
    const { domain } = scenario;
    const id = (await lab.virsh(['domid', domain.uuid])).stdout.trim();
    const folder = join(lab.dir, 'var/lib/libvirt/qemu');
    const monitor = join(folder, `domain-${id}-${domain.name}`, 'monitor.sock');
    const agent = join(folder, 'channel/target', `domain-${id}-${domain.name}`, 'org.qemu.guest_agent.0');
    const use = `--domain ${domain.name}`;
    for (const command of [
      ['recover', '--target', scenario.target],
      ['cleanup', '--remove-bitmaps'],
    ]) {
      expect((await expectCli(13, ['--socket', monitor, ...command])).stderr).toContain(use);
    }
    expect((await expectCli(1, ['--socket', monitor, 'doctor'])).stdout).toContain(use);
    const recover = ['--agent-socket', agent, 'recover', '--target', scenario.target];
    expect((await expectCli(13, recover)).stderr).toContain(`the guest agent at ${agent} belongs to libvirt`);
  });
});
