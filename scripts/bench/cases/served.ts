/** A point that is served: how fast it is read, and how soon. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import type { Unwind } from '../../../src/flow/unwind.js';
import { LONG_DISK, makeLongTarget } from '../../../test/support/long-chain.js';
import { against, type Case, MiB, ofEachProgram, type Program, timed } from '../case.js';
import { DISK, makeChain } from '../chain.js';

export const served = servedAs({ name: 'served', words: 'not proved', more: ['--no-verify'], atMost: 1.11 });
export const servedProved = servedAs({ name: 'served-proved', words: 'proved', more: [], atMost: null });

interface Serve {
  readonly name: string;
  readonly words: string;
  /** For this build: earlier ones prove nothing, and know no such option. */
  readonly more: readonly string[];
  readonly atMost: number | null;
}

function servedAs({ name, words, more, atMost }: Serve): Case {
  return {
    name,
    idea: `nbdcopy of a served point (FULL of 3 GiB and 2 INC), ${words}, against qemu-nbd of the same chain`,
    unit: 'ms',
    // 0.9 of its speed.
    limit: { by: 'times', atMost },
    bytes: ({ programs }) => (programs + 1.2) * DISK.data,
    unasked: ['memory'],
    prepare: async (bench, unwind) => {
      const chains = new Map<Program['role'], string>();
      const programs = await ofEachProgram(bench, async (program) => {
        const target = join(bench.dir, `target-${program.role}`);
        chains.set(program.role, await makeChain(program, bench.dir, target));
        const { uri } = await startServing(
          program,
          target,
          { disk: DISK.id, more: program.role === 'this' ? more : [] },
          unwind,
        );
        return () => timed(() => execa('nbdcopy', [uri, 'null:']));
      });
      const socket = join(bench.dir, 'nbd');
      const args = ['-r', '-t', '-e', '16', '-f', 'qcow2', '-k', socket, chains.get('this') ?? ''];
      const server = execa('qemu-nbd', args, { reject: false });
      unwind.defer(async () => {
        server.kill();
        await server;
      });
      return [
        ...programs,
        against('qemu-nbd', () => timed(() => execa('nbdcopy', [`nbd+unix:///?socket=${socket}`, 'null:']))),
      ];
    },
  };
}

const FILES = 100;

export const firstByte: Case = {
  name: 'serve-first-byte',
  idea: `from the start of serve to the first byte over NBD of a chain of ${FILES} files`,
  unit: 'ms',
  limit: { by: 'itself', atMost: 1500 },
  bytes: () => 64 * MiB,
  unasked: ['memory'],
  prepare: async (bench) => {
    await mkdir(join(bench.dir, 'chain'));
    await makeLongTarget(join(bench.dir, 'chain'), FILES);
    return ofEachProgram(bench, (program) =>
      Promise.resolve(() => firstByteOf(program, join(bench.dir, 'chain', 'target'))),
    );
  },
};

/** Milliseconds. */
export async function firstByteOf(program: Program, target: string): Promise<number> {
  let end = (): Promise<unknown> => Promise.resolve();
  const ms = await timed(async () => {
    const serving = await startServing(program, target, { disk: LONG_DISK });
    ({ end } = serving);
    await execa('qemu-io', ['-r', '-f', 'raw', '-c', 'read 0 512', serving.uri]);
  });
  await end();
  return ms;
}

interface Serving {
  readonly uri: string;
  readonly end: () => Promise<unknown>;
}

async function startServing(
  { path }: Program,
  target: string,
  { disk, more = [] }: { readonly disk: string; readonly more?: readonly string[] },
  unwind?: Unwind,
): Promise<Serving> {
  const args = ['--quiet', '--json', 'serve', '--target', target, ...more];
  const child = execa(process.execPath, [path, ...args], { reject: false });
  const end = async (): Promise<unknown> => {
    child.kill('SIGINT');
    return child;
  };
  unwind?.defer(end);
  let told = '';
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      told += chunk.toString();
      if (told.endsWith('}\n')) resolve();
    });
    void child.then(({ stderr }) => reject(new Error(`serve ended: ${stderr}`)));
  });
  const { disks } = JSON.parse(told) as { readonly disks: readonly { readonly disk: string; readonly uri: string }[] };
  const uri = disks.find((each) => each.disk === disk)?.uri;
  if (uri === undefined) throw new Error(`${disk} is not served: ${told}`);
  return { uri, end };
}
