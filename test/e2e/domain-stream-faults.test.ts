import { execa } from 'execa';
import { once } from 'node:events';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { messageOf } from '../../src/errors.js';
import { TEMPORARY } from '../../src/repository/scratch-place.js';
import { expectCli, PROGRAM } from '../support/cli.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { guardsOf } from '../support/domain-scenario.js';
import { compareImages } from '../support/lab/compare.js';
import { flush } from '../support/lab/guest-writes.js';
import { run } from '../support/lab/programs.js';
import { shareOf } from '../support/moments.js';
import { OVERLAID, type OverlaidDomain, overlaidDomain } from '../support/overlaid-domain.js';
import { patient } from '../support/patience.js';
import { useLibvirt } from '../support/use-libvirt.js';

/** Copies of a domain that are no point, of disks of all kinds: a qcow2 image, a raw file, a raw block device. */
const lab = useLibvirt();

const COPY = ['backup', '--level', 'copy'] as const;
const RAW = [...COPY, '--format', 'raw', '--output'] as const;
const STREAM = [...COPY, '--output', '-'] as const;

async function filled(): Promise<OverlaidDomain> {
  const scenario = await overlaidDomain(lab);
  for (let at = 0; at < 12; at += 2) await scenario.writeAll(at, 0x11 + at);
  return scenario;
}

/** Raw copies of the disks as they are now. */
async function copiesOf(scenario: OverlaidDomain): Promise<Readonly<Record<string, string>>> {
  const copies: Record<string, string> = {};
  for (const disk of OVERLAID) {
    await flush(scenario.domain, disk);
    const path = (copies[disk] = join(lab.dir, `${scenario.domain.name}-${disk}.copy`));
    const format = disk === 'vda' ? 'qcow2' : 'raw';
    await run('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', scenario.imageOf(disk), path]);
  }
  return copies;
}

async function expectEqual(
  folder: string,
  copies: Readonly<Record<string, string>>,
  withHoles: readonly string[],
): Promise<void> {
  for (const disk of OVERLAID) {
    const path = join(folder, `${disk}.raw`);
    await compareImages(path, copies[disk] ?? '');
    if (withHoles.includes(disk)) expect((await stat(path)).blocks * 512, disk).toBeLessThan(16 * 1024 * 1024);
  }
}

function stream({ vm }: OverlaidDomain) {
  return execa(process.execPath, [PROGRAM, ...vm, ...STREAM], {
    ...{ reject: false, buffer: { stdout: false }, encoding: 'buffer' },
    timeout: patient(120_000),
  });
}

/** No job, scratch image, folder, guard or file of any run; and the guest runs. */
async function expectNothing({ domain }: OverlaidDomain, folders: readonly string[]): Promise<void> {
  // Runs of other tests have theirs there, too, and may have new ones at any time: none for long.
  const ours = (await readdir(TEMPORARY)).filter((name) => name.startsWith('qmpbackup-') && !folders.includes(name));
  const left = async (): Promise<readonly string[]> => {
    const { stdout } = await lab.virsh(['domjobinfo', domain.uuid], { allowed: [0, 1] });
    const job = /Operation:\s+Backup/.test(stdout) ? ['job'] : [];
    const beside = (await readdir(join(lab.dir, 'images'))).filter((name) => name.includes('scratch'));
    const temporary = (await readdir(TEMPORARY)).filter((name) => ours.includes(name));
    const guards = (await guardsOf(domain.uuid)).map((pid) => `guard ${pid}`);
    return [...job, ...beside, ...temporary, ...guards];
  };
  await expect.poll(left, { timeout: patient(60_000), interval: 200 }).toEqual([]);
}

describe('all kinds of disks are as at the instant, whatever the guest writes meanwhile', () => {
  it('in a folder of raw images', async () => {
    const scenario = await filled();
    const before = await readdir(TEMPORARY);
    const copies = await copiesOf(scenario);
    const folder = join(lab.dir, 'raw-all');
    const copying = expectCli(0, [...scenario.vm, ...RAW, folder, '--speed-limit', '8M']);
    const names = (): Promise<readonly string[]> => readdir(`${folder}.partial`).catch(() => []);
    await expect.poll(names, { timeout: patient(60_000), interval: 20 }).toContain('vda.raw');
    for (let at = 0; at < 14; at += 1) await scenario.writeAll(at, 0xe0 + at);
    await copying;
    await expectEqual(folder, copies, OVERLAID);
    expect((await readdir(folder)).toSorted()).toEqual([
      'definition',
      'machine.json',
      ...OVERLAID.map((d) => `${d}.raw`),
    ]);
    await expectNothing(scenario, before);
  });

  it('in a stream whose reader is slow', async () => {
    const scenario = await filled();
    const before = await readdir(TEMPORARY);
    const copies = await copiesOf(scenario);
    const program = stream(scenario);
    await once(program.stdout, 'readable');
    for (let at = 0; at < 14; at += 1) await scenario.writeAll(at, 0xe0 + at);
    await sleep(1_000);
    const folder = join(lab.dir, 'unpacked-all');
    await mkdir(folder);
    const tar = execa('tar', ['-C', folder, '-xf', '-']);
    program.stdout.pipe(tar.stdin);
    await tar;
    expect((await program).exitCode).toBe(0);
    // A block device does not tell of its holes, which stand before the data in a tar.
    await expectEqual(folder, copies, ['vda', 'vdb']);
    await expectNothing(scenario, before);
  });
});

describe('what ends a stream early leaves nothing in the domain', () => {
  it.each([
    [
      'a reader that goes',
      1,
      /whoever reads stdout has gone/,
      (_: OverlaidDomain, s: Streaming): void => void s.stdout.destroy(),
    ],
    [
      'SIGTERM',
      143,
      /interrupted/,
      (_: OverlaidDomain, s: Streaming): void => void process.kill(s.pid ?? 0, 'SIGTERM'),
    ],
    ['a domain that is destroyed', 1, /domain/, ({ domain }: OverlaidDomain) => domain.destroy()],
    ['a QEMU that is killed', 1, /domain/, ({ domain }: OverlaidDomain) => domain.kill()],
  ] as const)('%s', async (_, exitCode, words, end) => {
    const scenario = await filled();
    const before = await readdir(TEMPORARY);
    const program = stream(scenario);
    await once(program.stdout, 'readable');
    await end(scenario, program);
    program.stdout.resume();
    const ended = await program;
    const stderr = Buffer.from(ended.stderr).toString();
    expect(ended.exitCode, stderr).toBe(exitCode);
    expect(stderr).toMatch(words);
    expect(stderr).not.toContain('warning');
    await expectNothing(scenario, before);
    if ((await scenario.domain.state()) === 'shut off') await scenario.domain.start();
    expect((await scenario.backup('auto')).point.level).toBe('full');
  });
});

type Streaming = ReturnType<typeof stream>;

const STEPS: readonly (CrashPoint & { readonly name: string })[] = [
  { name: 'after the journal', when: 'after', call: 'rename', matches: /run\.json$/ },
  { name: 'while staging', when: 'after', call: 'open', matches: /\.partial/ },
  { name: 'before the backup begins', when: 'before', call: 'spawn', matches: /backup-begin/ },
  { name: 'after the backup began', when: 'after', call: 'spawn', matches: /backup-begin/ },
  { name: 'before the job ends', when: 'before', call: 'spawn', matches: /domjobabort/ },
  { name: 'after the job ended', when: 'after', call: 'spawn', matches: /domjobabort/ },
  { name: 'before the catalog', when: 'before', call: 'rename', matches: /catalog\.json$/ },
  { name: 'after the catalog', when: 'after', call: 'rename', matches: /catalog\.json$/ },
  { name: 'before the journal goes', when: 'before', call: 'rm', matches: /run\.json$/ },
];

describe('SIGKILL at any step is put right by the next run of the domain', () => {
  it.each([
    ['act', 'a stream', STREAM, 0],
    ['die', 'a stream', STREAM, 1],
    ['die', 'raw images', null, 2],
  ] as const)(
    'guards %s, %s',
    async (guards, _, args, third) => {
      const scenario = await filled();
      const before = await readdir(TEMPORARY);
      const folder = join(lab.dir, `raw-killed-${scenario.domain.name}`);
      const command = [...scenario.vm, ...(args ?? [...RAW, folder])];
      const nextRuns = [
        () => expectCli(0, [...scenario.vm, 'recover', '--target', scenario.target]),
        () => scenario.backup('auto'),
        () => expectCli(0, command, { stdout: 'ignore' }),
      ];
      await scenario.backup('full');
      for (const [index, { name, ...step }] of shareOf(STEPS, third, 3).entries()) {
        try {
          await crashCli({ ...step, guards }, command);
          await nextRuns[index % nextRuns.length]?.();
          await expectNothing(scenario, before);
          await scenario.expectNothingLeft(2);
          await rm(folder, { recursive: true, force: true });
        } catch (error) {
          throw new Error(`killed ${name}: ${messageOf(error)}`, { cause: error });
        }
      }
      const copies = await copiesOf(scenario);
      await expectCli(0, [...scenario.vm, ...RAW, folder]);
      await expectEqual(folder, copies, OVERLAID);
      expect((await readdir(lab.dir)).filter((name) => name.includes('.partial'))).toEqual([]);
    },
    patient(400_000),
  );
});
