/** What the figures of a run were measured on. */
import { cpus, loadavg, release, totalmem } from 'node:os';
import { execa } from 'execa';
import { GiB } from './case.js';

export interface Machine {
  readonly at: string;
  readonly processor: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly qemu: string;
  /** Null where there is no virsh. */
  readonly libvirt: string | null;
  /** The mean of the minute before: what else the machine did. */
  readonly load: number;
}

/** From here on figures say more about the machine's other work than about this. */
const BUSY = 0.7;

export async function machineHere(at: Date): Promise<Machine> {
  const [load = 0] = loadavg();
  const all = cpus();
  return {
    at: at.toISOString(),
    processor: all[0]?.model ?? 'unknown',
    cores: all.length,
    memoryGiB: Math.round(totalmem() / GiB),
    kernel: release(),
    node: process.version,
    qemu: (await versionOf('qemu-system-x86_64', ['--version'])) ?? 'unknown',
    libvirt: await versionOf('virsh', ['--version']),
    load,
  };
}

export function machineInWords(machine: Machine): string {
  const { processor, cores, memoryGiB, kernel, node, qemu, libvirt, load } = machine;
  const words = [
    `${processor.trim()}, ${cores} cores, ${memoryGiB} GiB`,
    `Linux ${kernel}`,
    `node ${node}`,
    `QEMU ${qemu}`,
    ...(libvirt === null ? [] : [`libvirt ${libvirt}`]),
    `load ${load.toFixed(1)} before`,
  ];
  const busy = load > BUSY ? '\nNOT A QUIET MACHINE: something else ran when this began' : '';
  return `${machine.at.slice(0, 10)}, ${words.join(' · ')}${busy}`;
}

async function versionOf(program: string, args: readonly string[]): Promise<string | null> {
  const { stdout, failed } = await execa(program, args, { reject: false });
  return failed ? null : (/\d+\.\d+\.\d+/.exec(stdout)?.[0] ?? null);
}
