import { mkdir, readdir, readFile, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { endProcess, recordIn } from '../support/booted.js';
import { makeDisk as makeChain, makeLab as makeChains } from '../support/chains.js';
import { expectCli, repositoryRoot } from '../support/cli.js';
import { crashCli } from '../support/crash-point.js';
import { domainScenario, type DomainScenario, writeBothDisks } from '../support/domain-scenario.js';
import { ext4Of } from '../support/guest-disk.js';
import { isRun, named, readBlocks, runPage } from '../support/guide.js';
import { compareImages } from '../support/lab/compare.js';
import { createImage, makeExt4 } from '../support/lab/disk-images.js';
import { flush, write, writeFile as writeDisk } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { type GuestVm, type QemuOptions, startQemu } from '../support/lab/qemu.js';
import { httpReceiver } from '../support/receivers.js';
import { afterTest, type DiskSpec, labDir, scenario, type Scenario } from '../support/scenario.js';
import { imagesIn } from '../support/target-files.js';
import { useLibvirt } from '../support/use-libvirt.js';
import { BackedUpDisk } from '../support/virtnbdbackup-folder.js';

/** Every command of the pages for users does what the page says, on a VM or domain that is like the example's. */
const MiB = 1024 * 1024;
const lab = useLibvirt();

/** The folders of the example, in one of the test. */
async function folders(): Promise<{ readonly dir: string; readonly names: Readonly<Record<string, string>> }> {
  const dir = await labDir();
  await Promise.all(['backup', 'lib/vm'].map((each) => mkdir(join(dir, each), { recursive: true })));
  const images = join(lab.dir, 'images');
  return {
    dir,
    names: { '/backup': join(dir, 'backup'), '/var/lib': join(dir, 'lib'), '/var/lib/libvirt/images': images },
  };
}

interface Machine {
  readonly dir: string;
  readonly lab: Scenario;
  readonly target: string;
  readonly image: (disk: string) => string;
  readonly names: () => Readonly<Record<string, string>>;
  /** Something new on each disk. */
  readonly change: (at: number) => Promise<void>;
  readonly backup: (...more: string[]) => Promise<unknown>;
}

/** `web1` without a guest, with disk1 and disk2. */
async function machine(more: readonly DiskSpec[] = [], options: Partial<QemuOptions> = {}): Promise<Machine> {
  const { dir, names } = await folders();
  const image = (disk: string): string => join(dir, 'lib/vm', `${disk}.qcow2`);
  const specs: readonly DiskSpec[] = [...['disk1', 'disk2'].map((id) => ({ id, file: image(id) })), ...more];
  const made = await scenario(
    specs.map((spec) => ({ ...spec, ...(spec.format === 'raw' && { file: join(dir, 'lib/vm', `${spec.id}.raw`) }) })),
    { name: 'web1', ...options },
  );
  const target = join(dir, 'backup/web1');
  return {
    dir,
    lab: made,
    target,
    image,
    names: () => ({ ...names, '/run/web1.qmp': made.vm.socket, '/run/none.qmp': join(dir, 'none.sock') }),
    change: async (at) => {
      for (const disk of ['disk1', 'disk2']) {
        await write(made.vm, disk, { offset: at * MiB, length: MiB, pattern: at + 1 });
      }
    },
    backup: (...args) => made.backup('auto', '--target', target, ...args),
  };
}

/** `web1` with a guest that has an agent. */
async function machineWithGuest(): Promise<{ readonly vm: GuestVm; readonly names: Readonly<Record<string, string>> }> {
  const { dir, names } = await folders();
  const disks = ['disk1', 'disk2'].map((id) => ({ id, file: join(dir, 'lib/vm', `${id}.qcow2`) }));
  for (const { id, file } of disks) {
    await makeExt4({ file, label: id.replace('disk', 'DATA'), format: 'qcow2', size: 64 * MiB });
  }
  const vm = await startQemu({ dir: join(dir, 'vm'), name: 'web1', guest: true, disks });
  afterTest(() => vm.kill());
  return { vm, names: { ...names, '/run/web1.qmp': vm.socket, '/run/web1.qga': vm.agentSocket } };
}

async function domain(name: string, guest = false): Promise<DomainScenario> {
  const files = ['vda', 'vdb'].map((target) => ({ target, file: join(lab.dir, 'images', `${name}-${target}.qcow2`) }));
  await mkdir(join(lab.dir, 'images'), { recursive: true });
  for (const [index, { file }] of files.entries()) {
    await makeExt4({ file, label: `DATA${index + 1}`, format: 'qcow2', size: 64 * MiB });
  }
  const made = await domainScenario(lab, { name, disks: files, ...(guest && { guest }) });
  afterTest(async () => {
    await lab.virsh(['destroy', name], { allowed: [0, 1] });
    await lab.virsh(['undefine', name, '--checkpoints-metadata']);
  });
  return made;
}

const env = () => ({ LIBVIRT_DEFAULT_URI: lab.uri });

/** The newest point of `target` is what the disks of the VM are now. */
async function expectNewestEquals(target: string, disks: Readonly<Record<string, string>>, dir: string): Promise<void> {
  const output = join(dir, 'compared');
  await expectCli(0, ['restore', '--target', target, '--output', output]);
  for (const [disk, file] of Object.entries(disks)) await compareImages(join(output, `${disk}.qcow2`), file);
}

async function newestFile(folder: string, level: string): Promise<string> {
  return (await imagesIn(folder)).filter((name) => name.startsWith(level)).at(-1) ?? 'none';
}

const PAGES: Readonly<Record<string, () => Promise<void>>> = {
  'README.md': async () => {
    const { names } = await machineWithGuest();
    await domain('db1', true);
    const output = join(names['/var/lib'] ?? '', 'web1');
    await runPage('README.md', { names: () => ({ ...names, '/tmp/web1': output }), env: env() });
  },

  'docs/guide/first-backup.md': async () => {
    const { vm, names } = await machineWithGuest();
    await runPage('docs/guide/first-backup.md', { names: () => names });
    await vm.powerdown();
    const files = Object.fromEntries(vm.options.disks.map(({ id, file = '' }) => [id, file]));
    const at = `${names['/backup']}/web1`;
    await expectCli(0, [
      'backup',
      '--target',
      at,
      ...Object.entries(files).flatMap(([id, file]) => ['--offline', `${id}=${file}`]),
    ]);
    await expectNewestEquals(at, files, names['/var/lib'] ?? '');
  },

  'docs/guide/restore.md': async () => {
    const web1 = await machine();
    const restored = join(web1.dir, 'lib/restored');
    const inc = () => newestFile(join(web1.target, 'disk1'), 'INC');
    let newest = '';
    await runPage('docs/guide/restore.md', {
      names: () => ({ ...web1.names(), 'INC-1480546301.qcow2': newest }),
      before: {
        'Everything, as it was last': async () => {
          for (const at of [1, 2, 3]) {
            await web1.change(at);
            await web1.backup();
          }
          newest = await inc();
        },
        'Go on from the restored images': async () => {
          for (const disk of ['disk1', 'disk2']) {
            await flush(web1.lab.vm, disk);
            await compareImages(join(restored, `${disk}.qcow2`), web1.image(disk));
          }
          await compareImages(join(web1.dir, 'lib/disk1.raw'), web1.image('disk1'));
          await web1.change(4);
          await web1.lab.backup('inc', '--target', web1.target);
          newest = await inc();
          await web1.lab.vm.stop();
          const disks = ['disk1', 'disk2'].map((id) => ({ id, file: join(restored, `${id}.qcow2`) }));
          await web1.lab.restart({ disks });
        },
      },
    });
    await web1.lab.expectChainEqualsDisks(web1.target);
  },

  'docs/guide/files.md': async () => {
    const web1 = await machine();
    const mountpoint = join(web1.dir, 'mnt');
    await runPage('docs/guide/files.md', {
      names: () => ({ ...web1.names(), '/mnt/web1': mountpoint, '/tmp/got': join(web1.dir, 'got') }),
      before: {
        'Disks as files': async () => {
          for (const at of [1, 2]) {
            await web1.change(at);
            await web1.backup();
          }
          const raw = join(web1.dir, 'lib/vm/disk1-at-1.raw');
          await flush(web1.lab.vm, 'disk1');
          await run('qemu-img', ['convert', '-U', '-O', 'raw', web1.image('disk1'), raw]);
          await web1.change(3);
          await web1.backup();
        },
        'Single files': async () => {
          const [state, image] = [join(web1.dir, 'state'), join(web1.dir, 'ext4.raw')];
          await mkdir(join(state, 'etc'), { recursive: true });
          await rm(web1.target, { recursive: true });
          for (const text of ['one', 'another']) {
            await writeFile(join(state, 'etc/fstab'), text);
            await utimes(join(state, 'etc/fstab'), 1e9, 1e9);
            await ext4Of(state, image);
            await writeDisk(web1.lab.vm, 'disk1', { offset: 0, length: 40 * MiB, file: image });
            await web1.backup();
          }
        },
      },
    });
  },

  'docs/guide/boot.md': async () => {
    const web1 = await machine([], { args: ['-device', 'VGA'] });
    for (const at of [1, 2]) {
      await web1.change(at);
      await web1.backup();
    }
    await web1.lab.vm.stop();
    const to = join(web1.dir, 'lib/recovered');
    afterTest(async () => endProcess((await recordIn(to)).owner.pid, 'SIGKILL'));
    const db1 = await domain('db1');
    await runPage('docs/guide/boot.md', {
      names: web1.names,
      env: env(),
      before: {
        'A libvirt domain': async () => {
          for (const level of ['full', 'inc']) await db1.backup(level, '--target', join(web1.dir, 'backup/db1'));
          await db1.domain.destroy();
          await lab.virsh(['undefine', 'db1', '--checkpoints-metadata']);
        },
      },
    });
    await endProcess((await recordIn(to)).owner.pid);
    for (const disk of ['disk1', 'disk2']) await compareImages(join(to, `${disk}.qcow2`), web1.image(disk));
  },

  'docs/guide/copies.md': async () => {
    const web1 = await machine();
    await web1.lab.backup('auto', '--monthly', '--target', join(web1.dir, 'backup/monthly'));
    await web1.backup();
    await web1.backup();
    await runPage('docs/guide/copies.md', { names: web1.names });
    const [month] = await readdir(join(web1.dir, 'backup/monthly/web1'));
    await expectCli(0, ['list', '--target', join(web1.dir, 'backup/copy/monthly/web1', month ?? 'none')]);
    await expectNewestEquals(
      join(web1.dir, 'backup/web1'),
      { disk1: web1.image('disk1'), disk2: web1.image('disk2') },
      web1.dir,
    );
  },

  'docs/guide/retention.md': async () => {
    const web1 = await machine();
    await web1.backup();
    await runPage('docs/guide/retention.md', { names: web1.names });
  },

  'docs/guide/many-vms.md': async () => {
    const web1 = await machine();
    const [config] = (await readBlocks('docs/guide/many-vms.md')).filter(({ language }) => language === 'yaml');
    await mkdir(join(web1.dir, 'qmpbackup'));
    await writeFile(join(web1.dir, 'qmpbackup/config.yaml'), named(config!.text, web1.names()));
    const env = { XDG_CONFIG_HOME: web1.dir, STATE_DIRECTORY: join(web1.dir, 'state') };
    await runPage('docs/guide/many-vms.md', { names: web1.names, env });
  },

  'docs/guide/notifications.md': async () => {
    const web1 = await machine();
    const receiver = await httpReceiver();
    afterTest(() => receiver.close());
    const [sendmail, ping] = [join(web1.dir, 'sendmail'), join(web1.dir, 'ping')];
    await writeFile(sendmail, `#!/bin/sh\ncat >${web1.dir}/mail\n`, { mode: 0o755 });
    await writeFile(ping, `${receiver.url}/p`, { mode: 0o600 });
    const [config] = (await readBlocks('docs/guide/notifications.md')).filter(({ language }) => language === 'yaml');
    const names = { ...web1.names(), '/usr/sbin/sendmail': sendmail, '/etc/qmpbackup/ping': ping };
    await mkdir(join(web1.dir, 'qmpbackup'));
    await writeFile(join(web1.dir, 'qmpbackup/config.yaml'), named(config!.text, names));
    const env = { XDG_CONFIG_HOME: web1.dir, STATE_DIRECTORY: join(web1.dir, 'state') };
    await runPage('docs/guide/notifications.md', { names: () => names, env });
    expect(receiver.got.map(({ path }) => path)).toEqual(['/p']);
    expect(await readFile(join(web1.dir, 'mail'), 'utf8')).toMatch(/^Subject: .*a test/m);
  },

  'docs/guide/report.md': async () => {
    const web1 = await machine();
    await web1.backup();
    const [config] = (await readBlocks('docs/guide/many-vms.md')).filter(({ language }) => language === 'yaml');
    const [report] = (await readBlocks('docs/guide/report.md')).filter(({ language }) => language === 'yaml');
    await mkdir(join(web1.dir, 'qmpbackup'));
    await mkdir(join(web1.dir, 'lib/prometheus/node-exporter'), { recursive: true });
    const names = (): Readonly<Record<string, string>> => ({
      ...web1.names(),
      '/var/www/backups': join(web1.dir, 'pages'),
      '/var/lib/backups.html': join(web1.dir, 'all-in-one.html'),
    });
    await writeFile(join(web1.dir, 'qmpbackup/config.yaml'), named(`${config!.text}\n${report!.text}`, names()));
    const env = { XDG_CONFIG_HOME: web1.dir, STATE_DIRECTORY: join(web1.dir, 'state') };
    await runPage('docs/guide/report.md', { names, env });
  },

  'docs/guide/offline.md': async () => {
    const web1 = await machine();
    const off = await domain('web1');
    await runPage('docs/guide/offline.md', {
      names: web1.names,
      env: env(),
      before: {
        'Without libvirt': async () => {
          await web1.backup();
          await web1.change(2);
          await web1.lab.vm.stop();
        },
        'While it runs': () => web1.lab.restart(),
        'A domain of libvirt': async () => {
          await off.backup('auto', '--target', join(web1.dir, 'backup/web1-domain'));
          await writeBothDisks(off, 5, 0x11);
          await off.domain.destroy();
        },
        'Go back to an internal snapshot': async () => {
          await web1.lab.vm.stop();
          await run('qemu-img', ['snapshot', '-c', 'before-upgrade', web1.image('disk1')]);
        },
      },
    });
    await expectNewestEquals(web1.target, { disk2: web1.image('disk2') }, web1.dir);
    await off.expectChainEqualsDisks(join(web1.dir, 'backup/web1-domain'));
  },

  'docs/guide/libvirt.md': async () => {
    const web1 = await domain('web1', true);
    const { dir, names } = await folders();
    afterTest(() => lab.virsh(['undefine', 'again']));
    await runPage('docs/guide/libvirt.md', { names: () => names, env: env() });
    await web1.domain.destroy();
    const target = join(dir, 'backup/web1');
    await web1.backup('auto', '--target', target);
    await web1.expectChainEqualsDisks(target);
  },

  'docs/guide/disks.md': async () => {
    const web1 = await machine([{ id: 'disk3', format: 'raw' }]);
    const { control } = web1.lab.vm;
    await runPage('docs/guide/disks.md', {
      names: web1.names,
      before: {
        'A disk that cannot be copied now': async () => {
          const file = join(web1.dir, 'mirrored.qcow2');
          await createImage({ file, format: 'qcow2', size: 64 * MiB });
          const node = { driver: 'qcow2', 'node-name': 'mirrored', file: { driver: 'file', filename: file } };
          await control.execute('blockdev-add', node);
          const mirror = { 'job-id': 'mirror', device: 'disk2', target: 'mirrored', sync: 'full' };
          await control.execute('blockdev-mirror', mirror);
          await web1.change(4);
        },
        'Disks without a bitmap': async () => {
          await control.execute('block-job-cancel', { device: 'mirror', force: true });
          const file = join(web1.dir, 'lib/vm/old.qcow2');
          await createImage({ file, format: 'qcow2', size: MiB, compat: '0.10' });
        },
        Snapshots: async () => {
          const link = ['-F', 'qcow2', '-b', web1.image('disk1')];
          await run('qemu-img', [
            'create',
            '-q',
            '-u',
            '-f',
            'qcow2',
            ...link,
            join(web1.dir, 'lib/vm/overlay.qcow2'),
            '64M',
          ]);
        },
      },
    });
    await web1.backup();
    await web1.lab.expectChainEqualsDisks(web1.target);
  },

  'docs/guide/when-something-fails.md': async () => {
    const web1 = await machine();
    const folder = join(web1.target, 'disk1');
    const args = ['--socket', web1.lab.vm.socket, 'backup', '--target', web1.target];
    let gone = '';
    await runPage('docs/guide/when-something-fails.md', {
      names: web1.names,
      before: {
        'Ask the doctor': async () => {
          for (const at of [1, 2]) {
            await web1.change(at);
            await web1.backup();
          }
        },
        'A run was killed': () => crashCli({ when: 'after', call: 'send', matches: /"transaction"/ }, args),
        'An increment is refused': async () => {
          // Only a bitmap that was stored before can be inconsistent.
          await web1.lab.vm.stop();
          await web1.lab.restart();
          await web1.lab.vm.kill();
          await web1.lab.restart();
        },
        'A file is gone': async () => {
          gone = join(folder, await newestFile(folder, 'INC'));
          await rename(gone, join(web1.dir, 'put aside'));
        },
        'A file is damaged': async () => {
          await rename(join(web1.dir, 'put aside'), gone);
          await web1.change(3);
          await web1.backup();
          const file = join(folder, await newestFile(folder, 'INC'));
          const { size } = await stat(file);
          await run('cp', ['-p', file, join(web1.dir, 'right')]);
          await run('touch', ['-r', file, join(web1.dir, 'time')]);
          await truncate(file, size - 4096);
          await truncate(file, size);
          await run('touch', ['-r', join(web1.dir, 'time'), file]);
        },
        'The catalog is damaged or lost': async () => {
          const file = join(folder, await newestFile(folder, 'INC'));
          await run('cp', ['-p', join(web1.dir, 'right'), file]);
          await expectCli(0, ['verify', '--target', web1.target]);
          await writeFile(join(web1.target, 'catalog.json'), '{');
        },
        'The VM has bitmaps that nobody needs': async () => {
          await web1.backup('--target', join(web1.dir, 'backup/gone'));
          await rm(join(web1.dir, 'backup/gone'), { recursive: true });
        },
      },
    });
  },

  'docs/guide/other-tools.md': async () => {
    const web1 = await machine();
    const old = await new BackedUpDisk(web1.dir, 'vda').create();
    await old.change({ what: 0x11, offset: 0, length: MiB });
    await old.full();
    await old.change({ what: 0x22, offset: MiB, length: MiB });
    const newest = await old.inc('virtnbdbackup.1', 'virtnbdbackup.0', '2024-11-21T10:00:00.1');
    const python = await makeChains();
    await makeChain(python, 'disk1', [
      { file: 'FULL-100-disk1.qcow2', io: ['write -P 1 0 1M'] },
      { file: 'INC-101-disk1.qcow2', on: 'FULL-100-disk1.qcow2', io: ['write -P 2 1M 1M'] },
    ]);
    await run('qemu-img', ['rebase', '-u', '-b', '', join(python.folder('disk1'), 'INC-101-disk1.qcow2')]);
    await writeFile(join(python.target, 'uuid'), 'abc');
    const overlays = join(web1.dir, 'old');
    await mkdir(overlays);
    const base = join(overlays, 'base.raw');
    await run('qemu-img', ['create', '-q', '-f', 'raw', base, '8M']);
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', join(overlays, 'monday.qcow2')]);
    await run('qemu-io', ['-c', 'write -P 3 1M 1M', join(overlays, 'monday.qcow2')]);
    const monday = ['-b', join(overlays, 'monday.qcow2'), '-F', 'qcow2'];
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...monday, join(overlays, 'tuesday.qcow2')]);
    for (const disk of ['system', 'data']) {
      const file = join(overlays, `${disk}.qcow2`);
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, '8M']);
      const above = join(overlays, `${disk}-monday.qcow2`);
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', file, '-F', 'qcow2', above]);
      await run('qemu-io', ['-c', 'write -P 4 2M 1M', above]);
    }
    const names = { '/backup/old': old.folder, '/backup/python': python.target, '/old': overlays };
    await runPage('docs/guide/other-tools.md', { names: () => ({ ...web1.names(), ...names }) });
    await expectNewestEquals(join(web1.dir, 'backup/imported'), { vda: newest }, web1.dir);
    await compareImages(join(web1.dir, 'lib/monday/vda.qcow2'), join(overlays, 'monday.qcow2'));
    await compareImages(join(web1.dir, 'lib/disk1.qcow2'), python.flat('disk1', 'INC-101-disk1.qcow2'));
  },
};

it.each(Object.entries(PAGES))('%s', (_, runIt) => runIt());

it('no page has commands that are not run', async () => {
  const guides = (await readdir(join(repositoryRoot, 'docs/guide'))).map((name) => `docs/guide/${name}`);
  for (const page of ['README.md', ...guides]) {
    const blocks = await readBlocks(page);
    if (blocks.some(isRun)) expect(Object.keys(PAGES)).toContain(page);
    const passedOver = blocks.filter((block) => !isRun(block) && /^ *(sudo )?qmpbackup /m.test(block.text));
    expect(passedOver.map(({ line }) => `${page}:${line}`)).toEqual([]);
  }
});
