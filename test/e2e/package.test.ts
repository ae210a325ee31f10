import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

// The Debian package as its tools see it. That it installs on a bare Debian 12 and 13, and backs up a VM there: scripts/try-deb.

let dir: string;
let deb: string;

async function build(): Promise<string> {
  const { stdout } = await execa('./scripts/build-deb', { env: { SOURCE_DATE_EPOCH: '1767225600' } });
  return /'(build\/\S+\.deb)'/.exec(stdout)?.[1] ?? '';
}

async function digestOf(path: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(path))
    .digest('hex');
}

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qmpdeb-'));
  deb = await build();
});

afterAll(() => rm(dir, { recursive: true }));

describe('the Debian package', () => {
  it('is without an error or warning for lintian', async () => {
    const { stdout } = await execa('lintian', ['--allow-root', deb]);
    expect(stdout).toBe('');
  });

  it('is the same, byte for byte, when it is built again', async () => {
    const before = await digestOf(deb);
    expect(await digestOf(await build())).toBe(before);
  });

  it('has the program, manual pages, completions, unit and timer, and the program in it runs', async () => {
    await execa('dpkg-deb', ['-x', deb, dir]);
    const { stdout: files } = await execa('find', ['.', '-type', 'f'], { cwd: dir });
    expect(files.split('\n')).toEqual(
      expect.arrayContaining([
        './usr/bin/qmpbackup',
        './usr/share/man/man1/qmpbackup-backup.1.gz',
        './usr/share/bash-completion/completions/qmpbackup',
        './usr/share/zsh/vendor-completions/_qmpbackup',
        './usr/share/fish/vendor_completions.d/qmpbackup.fish',
        './lib/systemd/system/qmpbackup.service',
        './lib/systemd/system/qmpbackup.timer',
        './usr/share/qmpbackup/prometheus/qmpbackup.rules.yml',
        './usr/share/qmpbackup/grafana/qmpbackup.json',
        './usr/share/doc/qmpbackup/examples/config.yaml',
      ]),
    );
    const program = join(dir, 'usr/lib/qmpbackup/bin/qmpbackup.js');
    const example = join(dir, 'usr/share/doc/qmpbackup/examples/config.yaml');
    const { stdout } = await execa(process.execPath, [program, 'config', 'check', '--config', example]);
    expect(stdout).toContain('is right: 2 VMs');
  });

  it('has units that systemd takes as they are', async () => {
    const [service, timer] = ['service', 'timer'].map((kind) => `qmpbackup.${kind}`) as [string, string];
    const unit = await readFile(join('packaging/systemd', service), 'utf8');
    // The program is not installed here.
    await writeFile(join(dir, service), unit.replace('/usr/bin/qmpbackup', process.execPath));
    await writeFile(join(dir, timer), await readFile(join('packaging/systemd', timer), 'utf8'));
    const { all } = await execa('systemd-analyze', ['verify', '--man=no', join(dir, service), join(dir, timer)], {
      all: true,
    });
    expect(all).toBe('');
    expect(unit).toContain('KillMode=process');
    // What it says of a unit of root that opens devices, any folder and the network.
    const judged = await execa('systemd-analyze', ['security', '--offline=yes', '--threshold=65', join(dir, service)]);
    expect(judged.stdout).toMatch(/Overall exposure level for qmpbackup\.service: \d/);
  });
});
