import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MiB } from './builders.js';
import { type CliResult, qmpbackup } from './cli.js';
import { createImage } from './lab/disk-images.js';
import { write } from './lab/guest-writes.js';
import { startQemu, type Vm } from './lab/qemu.js';
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
  at(ms: number): Pick<Fleet, 'cli'>;
  /** Writes a MiB to each VM that runs, at a place of its own each time. */
  writeAll(): Promise<void>;
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
  return {
    ...{ dir, config, backups, vms, env },
    configure: (text) => writeFile(config, text),
    cli: cliWith({}),
    at: (ms) => ({ cli: cliWith(clockOf(ms)) }),
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
