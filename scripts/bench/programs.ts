/** The programs that are measured: builds of this one, other tools, and what the least that they could take is. */
import { join } from 'node:path';
import { execa } from 'execa';
import { syncFile } from '../../src/host/durable.js';
import { beside, type Measure, type Program, timed } from './case.js';

/** What it printed; throws, with all it said, unless it ends with 0. */
export async function runProgram({ path }: Program, args: readonly string[]): Promise<string> {
  return (await execa(process.execPath, [path, '--quiet', ...args], { env: { NO_COLOR: '1' } })).stdout;
}

/** With its data thrown away; throws, with all it said, unless it ends with 0. */
export async function streamAway({ path }: Program, args: readonly string[]): Promise<void> {
  await execa(process.execPath, [path, '--quiet', ...args], { stdout: 'ignore', env: { NO_COLOR: '1' } });
}

/** The least that a program for node takes. */
export function emptyNode(): Promise<number> {
  return timed(() => execa(process.execPath, ['-e', '0']));
}

/** As flushed as our images are. Its own image is not locked where `-U` is among `how`. */
export async function convert(from: string, to: string, how: readonly string[] = []): Promise<void> {
  await execa('qemu-img', ['convert', ...how, '-O', 'qcow2', from, to]);
  await syncFile(to);
}

/** The variables with the commands of other tools that do the same. */
export const PEERS = { vm: 'QMPBACKUP_PEER', domain: 'QMPBACKUP_PEER_DOMAIN' } as const;

export interface Peer {
  /** Runs it at a level, into a folder of the case. */
  readonly run: (level: 'full' | 'inc', target: string) => Promise<void>;
}

/** Undefined where its variable is not set. */
export function peerOf(kind: keyof typeof PEERS, places: Readonly<Record<string, string>>): Peer | undefined {
  const command = process.env[PEERS[kind]];
  if (command === undefined || command === '') return undefined;
  return {
    run: async (level, target) => {
      const filled = filledIn(command, { ...places, level, target });
      await execa(filled, { shell: true });
    },
  };
}

/** `{name}` in a command becomes what stands for it. */
export function filledIn(command: string, places: Readonly<Record<string, string>>): string {
  return command.replaceAll(/\{(\w+)\}/g, (whole, name: string) => places[name] ?? whole);
}

/** An increment of another tool, upon a FULL of its own. */
export async function peerIncrement(
  peer: Peer | undefined,
  dir: string,
  change: () => Promise<void>,
): Promise<readonly Measure[]> {
  if (!peer) return [];
  const target = join(dir, 'peer');
  await peer.run('full', target);
  return [
    beside('the other tool', async () => {
      await change();
      return timed(() => peer.run('inc', target));
    }),
  ];
}
