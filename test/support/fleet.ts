import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { MiB } from './builders.js';
import { type CliResult, PROGRAM, qmpbackup } from './cli.js';
import { createImage } from './lab/disk-images.js';
import { write } from './lab/guest-writes.js';
import { startQemu, type Vm } from './lab/qemu.js';
import { patient } from './patience.js';
import { afterTest, labDir } from './scenario.js';

/** Several guest-less VMs with a disk each, a configuration, and a state folder of their own, taken away after the test. */
export interface Fleet {
  readonly dir: string;
  readonly config: string;
  readonly vms: ReadonlyMap<string, Vm>;
  readonly env: Readonly<Record<string, string>>;
  /** Where the targets are, each called as its VM. */
  readonly backups: string;
  configure(text: string): Promise<void>;
  /** `qmpbackup … --config FILE`, which must end with `exitCode`. */
  cli(exitCode: number, ...args: readonly string[]): Promise<CliResult>;
  /** The same at another time: all that is run believes that it is then. */
  at(ms: number): Pick<Fleet, 'cli'> & { measured(...args: readonly string[]): Promise<Measured> };
  /** Writes a MiB to each VM that runs, at a place of its own each time. */
  writeAll(): Promise<void>;
}

/** What came of a command, which must end with 0, and what it took with all that it started and waited for. */
export interface Measured {
  readonly stdout: string;
  /** Of the largest of its processes. */
  readonly peakMiB: number;
  /** Of all of them. */
  readonly cpuSeconds: number;
}

export async function fleet(names: readonly string[]): Promise<Fleet> {
  const dir = await labDir();
  const [config, backups] = [join(dir, 'config.yaml'), join(dir, 'backups')];
  const env = { STATE_DIRECTORY: join(dir, 'state'), NO_COLOR: '1' };
  await mkdir(backups);
  const vms = new Map<string, Vm>();
  for (const name of names) {
    const file = join(dir, `${name}.qcow2`);
    await createImage({ file, format: 'qcow2', size: 64 * MiB });
    const vm = await startQemu({ dir: join(dir, name), name, disks: [{ id: 'd1', format: 'qcow2', file }] });
    afterTest(() => vm.kill());
    vms.set(name, vm);
  }
  let writes = 0;
  const cliWith =
    (clock: Readonly<Record<string, string>>): Fleet['cli'] =>
    async (exitCode, ...args) => {
      const result = await qmpbackup([...args, '--config', config], { env: { ...env, ...clock } });
      if (result.exitCode === exitCode) return result;
      throw new Error(
        `${args.join(' ')} ended with ${result.exitCode}, not ${exitCode}:\n${result.stdout}\n${result.stderr}`,
      );
    };
  const measured = async (clock: Readonly<Record<string, string>>, args: readonly string[]): Promise<Measured> => {
    const file = join(dir, 'resources');
    const words = ['-f', '%M %U %S', '-o', file, process.execPath, PROGRAM, ...args, '--config', config];
    const { stdout } = await execa('/usr/bin/time', words, { env: { ...env, ...clock }, timeout: patient(600_000) });
    const [peakKiB = NaN, user = NaN, system = NaN] = (await readFile(file, 'utf8')).trim().split(' ').map(Number);
    return { stdout, peakMiB: peakKiB / 1024, cpuSeconds: user + system };
  };
  return {
    ...{ dir, config, backups, vms, env },
    configure: (text) => writeFile(config, text),
    cli: cliWith({}),
    at: (ms) => ({ cli: cliWith(clockOf(ms)), measured: (...args) => measured(clockOf(ms), args) }),
    writeAll: async () => {
      writes += 1;
      for (const vm of vms.values()) {
        await write(vm, 'd1', { offset: (writes % 60) * MiB, length: MiB, pattern: writes % 251 });
      }
    },
  };
}

/** What makes programs believe in another time: the library of faketime. Waits, and times of files, are as they are. */
function clockOf(ms: number): Readonly<Record<string, string>> {
  return {
    LD_PRELOAD: '/usr/$LIB/faketime/libfaketimeMT.so.1',
    FAKETIME: `${ms < Date.now() ? '' : '+'}${(ms - Date.now()) / 1000}`,
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
    NO_FAKE_STAT: '1',
  };
}

/** The section `vms`: each VM by its monitor. */
export function vmsSection({ vms }: Pick<Fleet, 'vms'>): string {
  return ['vms:', ...[...vms].map(([name, vm]) => `  ${name}: { socket: ${vm.socket} }`)].join('\n');
}
