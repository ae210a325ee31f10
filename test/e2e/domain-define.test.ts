import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { expectCli, PROGRAM } from '../support/cli.js';
import { levelsOf } from '../support/comparison.js';
import { crashCli } from '../support/crash-point.js';
import { type DomainScenario, domainScenario, writeBothDisks } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { flush } from '../support/lab/guest-writes.js';
import { escapeXml } from '../support/lab/libvirt-domain.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** Any firmware does: that a domain has variables beside it is what matters. */
const FIRMWARE = '/usr/share/seabios/bios-256k.bin';
const ODD_NAME = `a <b> & "c" it's`;

const lab = useLibvirt();
let count = 0;
beforeAll(async () => {
  await copyFile(FIRMWARE, join(lab.dir, 'images', 'code.fd'));
});

interface Firmware {
  readonly scenario: DomainScenario;
  readonly nvram: string;
  readonly output: string;
  readonly restore: (exitCode: number, ...more: string[]) => ReturnType<typeof expectCli>;
  readonly definitionFiles: () => Promise<readonly string[]>;
}

/** A domain with UEFI variables (in name), a medium, a password and an interface. */
async function domainWithVariables(): Promise<Firmware> {
  count += 1;
  const nvram = join(lab.dir, 'images', `vars-${count}.fd`);
  const iso = join(lab.dir, 'images', `medium-${count}.iso`);
  await writeFile(nvram, randomBytes(131072));
  await writeFile(iso, 'x'.repeat(4096));
  const scenario = await domainScenario(lab, {
    os: `<loader readonly='yes' type='pflash'>${lab.dir}/images/code.fd</loader><nvram>${nvram}</nvram>`,
    devices: `<disk type='file' device='cdrom'><source file='${iso}'/><target dev='hda' bus='ide'/><readonly/></disk>
      <interface type='user'><model type='virtio'/></interface>
      <graphics type='vnc' port='-1' autoport='yes' passwd='secret'/>`,
  });
  const output = join(lab.dir, `restored-${count}`);
  return {
    scenario,
    nvram,
    output,
    restore: (exitCode, ...more) =>
      expectCli(exitCode, [
        ...['--json', '--connect', lab.uri, 'restore', '--target', scenario.target, '--output', output],
        ...more,
      ]),
    definitionFiles: () => readdir(join(scenario.target, 'definition')),
  };
}

interface Answer {
  readonly definition: {
    readonly name: string;
    readonly uuid: string;
    readonly xml: string;
    readonly nvram: string;
    readonly tpm: string | null;
    readonly defined: boolean;
  };
}

const sourcesOf = async (domain: string): Promise<Record<string, string>> => {
  const { stdout } = await lab.virsh(['domblklist', '--domain', domain]);
  const rows = stdout
    .split('\n')
    .slice(2)
    .flatMap((line) => /^\s*(\S+)\s+(.+?)\s*$/.exec(line)?.slice(1, 3) ?? []);
  return Object.fromEntries(Array.from({ length: rows.length / 2 }, (_, at) => [rows[2 * at]!, rows[2 * at + 1]!]));
};

const filesBelow = async (folder: string): Promise<readonly string[]> =>
  (await readdir(folder, { recursive: true })).toSorted();

describe('the definition of a domain', () => {
  let made: Firmware;
  let vars: Buffer;
  beforeAll(async () => {
    made = await domainWithVariables();
    const { scenario, nvram } = made;
    await lab.virsh(['autostart', scenario.domain.uuid]);
    await writeBothDisks(scenario, 1, 0x11);
    await scenario.backup('auto');
    await writeBothDisks(scenario, 3, 0x12);
    vars = randomBytes(131072);
    await writeFile(nvram, vars);
    await scenario.backup('inc');
    await writeFile(nvram, randomBytes(131072));
  });

  it('is in each point, for its owner alone, as it was at that instant', async () => {
    const { target } = made.scenario;
    const files = await made.definitionFiles();
    expect(files.map((file) => file.replace(/\d+/, 'N')).toSorted()).toEqual(
      ['CHECKPOINT-N.xml', 'DOMAIN-N.xml', 'LIVE-N.xml', 'NVRAM-N.bin'].flatMap((file) => [file, file]),
    );
    expect((await stat(join(target, 'definition'))).mode & 0o777).toBe(0o700);
    for (const file of files) expect((await stat(join(target, 'definition', file))).mode & 0o777).toBe(0o600);
    const newest = files
      .filter((file) => file.startsWith('NVRAM'))
      .toSorted()
      .at(-1)!;
    expect(vars.equals(await readFile(join(target, 'definition', newest)))).toBe(true);
  });

  it('is refused for a domain that is there, and makes another one beside it that has the disks of the point', async () => {
    const { scenario, output, restore } = made;
    expect((await restore(13, '--define')).stderr).toContain('--name');
    await expect(stat(output)).rejects.toThrow('ENOENT');

    const { definition } = (await restore(0, '--define', '--name', ODD_NAME)).json<Answer>();
    expect(definition).toMatchObject({ name: ODD_NAME, defined: true });
    expect(definition.uuid).not.toBe(scenario.domain.uuid);
    expect((await stat(output)).mode & 0o777).toBe(0o711);
    await lab.virsh(['start', '--paused', '--domain', definition.uuid]);
    expect(await sourcesOf(definition.uuid)).toMatchObject({
      vda: join(output, 'vda.qcow2'),
      vdb: join(output, 'vdb.qcow2'),
      hda: join(lab.dir, 'images', `medium-${count}.iso`),
    });
    for (const disk of ['vda', 'vdb']) {
      await flush(scenario.domain, disk);
      await compareImages(join(output, `${disk}.qcow2`), scenario.fileOf(disk));
    }
    expect(vars.equals(await readFile(definition.nvram))).toBe(true);
    const { stdout: xml } = await lab.virsh(['dumpxml', '--security-info', '--domain', definition.uuid]);
    expect(xml).toContain(`<nvram>${escapeXml(definition.nvram)}</nvram>`);
    expect(xml).toContain("passwd='secret'");
    const macs = async (domain: string) =>
      /<mac address='.*'/.exec((await lab.virsh(['dumpxml', '--domain', domain])).stdout)![0];
    expect(await macs(definition.uuid)).not.toBe(await macs(scenario.domain.uuid));
    expect((await lab.virsh(['dominfo', definition.uuid])).stdout).toMatch(/Autostart:\s+disable/);
    expect(await scenario.domain.state()).toBe('running');
    await lab.virsh(['destroy', '--domain', definition.uuid]);
    await rm(output, { recursive: true });
  });

  it('damaged is refused by name, and keeps nobody from the disks', async () => {
    const { scenario, output, restore, definitionFiles } = made;
    const file = (await definitionFiles())
      .filter((each) => each.startsWith('NVRAM'))
      .toSorted()
      .at(-1)!;
    const path = join(scenario.target, 'definition', file);
    const altered = vars.map((byte, at) => (at === 9 ? ~byte : byte));
    for (const damage of [altered, vars.subarray(1), null]) {
      await rm(path);
      if (damage !== null) await writeFile(path, damage);
      const { stderr } = await restore(13, '--define', '--name', 'never');
      expect(stderr).toContain(`definition/${file} cannot be used`);
      await expect(stat(output)).rejects.toThrow('ENOENT');
    }
    const { stderr } = await restore(0);
    expect(stderr).toContain('it is missing');
    expect(await filesBelow(output)).toEqual(['machine.json', 'vda.qcow2', 'vdb.qcow2']);
    await rm(output, { recursive: true });
    await writeFile(path, vars);
  });

  it('of a run that is killed before its seal goes, and so do those of points that are merged', async () => {
    const { scenario, nvram, definitionFiles } = made;
    await writeFile(nvram, vars);
    const args = [...scenario.vm, 'backup', '--level', 'inc', '--target', scenario.target];
    await crashCli({ when: 'after', call: 'rename', matches: /DOMAIN-/ }, args);
    expect((await definitionFiles()).length).toBeGreaterThan(8);
    await scenario.backup('inc');
    const files = await definitionFiles();
    expect(files.length).toBe(12);
    for (const disk of ['vda', 'vdb']) {
      expect((await definitionFiles()).length).toBe(12);
      await expectCli(0, ['rebase', '--dir', join(scenario.target, disk)]);
    }
    const newest = ['CHECKPOINT', 'DOMAIN', 'LIVE', 'NVRAM'].map((kind) =>
      files
        .filter((file) => file.startsWith(kind))
        .toSorted()
        .at(-1),
    );
    expect((await definitionFiles()).toSorted()).toEqual(newest);
  });

  it('puts the original back under its own name and UUID once that is gone, and backups go on', async () => {
    const { scenario, output, restore, nvram } = made;
    const { domain } = scenario;
    await domain.destroy();
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata', '--nvram']);
    const { definition } = (await restore(0, '--define', '--point', '2')).json<Answer>();
    expect(definition).toMatchObject({ name: domain.name, uuid: domain.uuid, defined: true });
    await expect(stat(nvram)).rejects.toThrow('ENOENT');
    expect(vars.equals(await readFile(definition.nvram))).toBe(true);
    expect((await lab.virsh(['dominfo', domain.uuid])).stdout).toMatch(/Autostart:\s+enable/);
    await domain.start();
    expect(await sourcesOf(domain.uuid)).toMatchObject({ vda: join(output, 'vda.qcow2') });
    expect(levelsOf(await scenario.backup('auto'))).toEqual(['vda inc by comparison', 'vdb inc by comparison']);
  });
});

describe('what libvirt does not keep in the XML', () => {
  /** Where libvirt of the host keeps it; that of the lab cannot be seen from outside. */
  const STATE = '/var/lib/libvirt/swtpm';
  const TPM = `<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>`;
  const made: string[] = [];
  beforeEach(() => mkdir(STATE, { recursive: true }).then(() => undefined));
  afterAll(() => Promise.all(made.map((folder) => rm(folder, { recursive: true, force: true }))));

  it('is said where it cannot be read, and put where the restored domain looks for it unless some is there', async () => {
    const { scenario, restore, output, nvram } = await domainWithVariables();
    const { domain } = scenario;
    // It gets its TPM for its next start, so that there is no state yet.
    const file = join(lab.dir, 'with-tpm.xml');
    const { stdout: xml } = await lab.virsh(['dumpxml', '--inactive', domain.uuid]);
    await writeFile(file, xml.replace('</devices>', `${TPM}</devices>`));
    await lab.virsh(['define', file]);
    await rm(nvram);
    const first = await expectCli(0, [...scenario.vm, 'backup', '--level', 'full', '--target', scenario.target]);
    expect(first.stderr).toContain('the point does not have the state of its TPM: cannot read');
    expect(first.stderr).toContain(`the point does not have its UEFI variables: cannot read ${nvram}`);
    const other = await restore(0, '--name', 'other');
    expect(other.stderr).toContain('does not have its UEFI variables');
    const restored = await readFile(other.json<Answer>().definition.xml, 'utf8');
    expect(restored).toContain('<name>other</name>');
    expect(restored).not.toContain(nvram);
    await rm(output, { recursive: true });

    const state = randomBytes(4000);
    made.push(join(STATE, domain.uuid));
    await mkdir(join(STATE, domain.uuid, 'tpm2'), { recursive: true });
    await writeFile(join(STATE, domain.uuid, 'tpm2/tpm2-00.permall'), state);
    await writeFile(join(STATE, domain.uuid, 'tpm2/.lock'), '');
    await scenario.backup('inc');
    const { definition } = (await restore(0, '--define', '--name', 'with tpm')).json<Answer>();
    made.push(join(STATE, definition.uuid));
    expect(state.equals(await readFile(join(STATE, definition.uuid, 'tpm2/tpm2-00.permall')))).toBe(true);
    expect(await filesBelow(join(output, 'with tpm.tpm'))).toEqual(['tpm2', 'tpm2/tpm2-00.permall']);
    expect((await stat(join(STATE, definition.uuid, 'tpm2'))).mode & 0o777).toBe(0o700);

    await domain.destroy();
    await lab.virsh(['undefine', domain.uuid, '--checkpoints-metadata', '--keep-nvram']);
    await writeFile(join(STATE, domain.uuid, 'tpm2/tpm2-00.permall'), 'newer');
    await rm(output, { recursive: true });
    const again = await restore(0, '--define');
    expect(again.stderr).toContain('the state of its TPM was not put into');
    expect(await readFile(join(STATE, domain.uuid, 'tpm2/tpm2-00.permall'), 'utf8')).toBe('newer');
  });

  it('of an emulated TPM that runs is in the point, and the restored domain starts with it', async () => {
    const { domain, target, vm } = await domainScenario(lab, { devices: TPM });
    // As root of the lab, where /var/lib/libvirt is that of its libvirt.
    const tool = (...args: string[]) =>
      lab.inside(process.execPath, [PROGRAM, '--json', '--connect', lab.uri, ...args]);
    const stateOf = (uuid: string): string => join(lab.dir, STATE, uuid, 'tpm2/tpm2-00.permall');
    // Its firmware writes to the TPM at the start.
    await lab.virsh(['suspend', domain.uuid]);
    const state = await readFile(stateOf(domain.uuid));
    expect((await tool(...vm, 'backup', '--level', 'full', '--target', target)).stderr).not.toContain('TPM');

    const define = async (name: string): Promise<string> => {
      const output = join(lab.dir, name);
      const args = ['restore', '--target', target, '--output', output, '--define', '--name', name];
      const { definition } = JSON.parse((await tool(...args)).stdout) as Answer;
      expect(state.equals(await readFile(stateOf(definition.uuid)))).toBe(true);
      return definition.uuid;
    };
    const [twin, torn] = [await define('tpm-twin'), await define('tpm-torn')];
    await domain.destroy();
    await lab.virsh(['start', twin]);
    expect((await lab.virsh(['domstate', twin])).stdout).toMatch(/^running/);
    // The emulator reads what it is given: one that is torn keeps the domain from starting.
    await writeFile(stateOf(torn), state.subarray(0, 1000));
    const refused = await lab.virsh(['start', torn], { allowed: [0, 1] });
    expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/swtpm|TPM/i) as string });
  });
});
