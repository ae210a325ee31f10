import { randomBytes } from 'node:crypto';
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { execa } from 'execa';
import { createImage as createTarget } from '../src/qemu-tools/steps.js';
import { inspectVm } from '../src/qemu/inspect.js';
import { dismissJob, watchJobs } from '../src/qemu/job-watch.js';
import { startPoint, type TransactionDisk } from '../src/qemu/transaction.js';
import { describeEndpoint } from '../src/qmp/endpoint.js';
import { FakeAgent } from '../test/support/fake-agent.js';
import { createImage } from '../test/support/lab/disk-images.js';
import { write, writeFile, writeZeroes } from '../test/support/lab/guest-writes.js';
import { makeLabDir } from '../test/support/lab/programs.js';
import { startQemu, type Vm } from '../test/support/lab/qemu.js';
import { benchDomain } from './bench-domain.js';
import { MiB, print, type Ran, ratio, runTool, Samples, seconds } from './bench-samples.js';

/**
 * Speed as ratios: each number beside a bare QMP job, a bare `node -e 0` and `qemu-img convert` of the same run, with
 * the runs interleaved and medians taken. Wants an idle machine. `QMPBACKUP_PEER="command with {socket} and {target}"`
 * puts another tool beside the INC of nothing.
 */
const GiB = 1024 * MiB;
const { values: flags } = parseArgs({
  options: {
    runs: { type: 'string', default: '5' },
    domain: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const RUNS = Number(flags.runs);

const dir = await makeLabDir();
const started: Vm[] = [];
/** FULL, INC of 64 MiB and INC of nothing of a 4 GiB disk. */
async function benchCopying(): Promise<void> {
  const vm = await start('big', [{ id: 'disk', size: 4 * GiB }]);
  const random = join(dir, 'random');
  await execa('head', ['-c', String(64 * MiB), '/dev/urandom'], { stdout: { file: random } });
  for (let offset = 0; offset < 1.5 * GiB; offset += 64 * MiB) {
    await writeFile(vm, 'disk', { offset, length: 64 * MiB, file: random });
  }
  await writeZeroData(vm);

  const times = new Samples();
  for (let run = 0; run < RUNS; run += 1) {
    await times.add('node -e 0', () => execa(process.execPath, ['-e', '0']));
    times.addMs('bare FULL job', await bareJob(vm, null));
    await times.add('qemu-img convert', async () => {
      const to = join(dir, 'converted.qcow2');
      await execa('qemu-img', ['convert', '-U', '-O', 'qcow2', vm.disk('disk').file ?? '', to]);
    });
    await rm(join(dir, 'converted.qcow2'));
    const target = join(dir, `target-${run}`);
    const backup = (level: string, ...more: string[]): Promise<Ran> =>
      runTool(['--quiet', '--socket', vm.socket, 'backup', '--level', level, '--target', target, ...more]);
    const full = await backup('full', '--no-digest');
    times.addMs('FULL, no digest', full.ms);
    times.memory(full.peakBytes, 150);
    const { size } = await stat(await newestFile(target));
    times.note('size of the FULL', `${(size / MiB).toFixed(0)} MiB for 1536 MiB of data and 256 MiB of written zeros`);

    const bitmap = `bench-${randomBytes(4).toString('hex')}`;
    const [node] = (await inspectVm(vm.control)).disks;
    await vm.control.execute('block-dirty-bitmap-add', { node: node!.address, name: bitmap });
    await write(vm, 'disk', { offset: 2 * GiB, length: 64 * MiB, pattern: run + 1 });
    times.addMs('bare INC job, 64 MiB', await bareJob(vm, bitmap));
    await vm.control.execute('block-dirty-bitmap-remove', { node: node!.address, name: bitmap });
    times.addMs('INC of 64 MiB', (await backup('inc', '--no-digest')).ms);
    times.addMs('INC of nothing', (await backup('inc')).ms);
    const peer = process.env['QMPBACKUP_PEER'];
    if (peer) {
      const command = peer.replaceAll('{socket}', vm.socket).replaceAll('{target}', join(dir, `peer-${run}`));
      await times.add('the other tool', () => execa(command, { shell: true }));
    }
    await rm(target, { recursive: true });
    if (run === 0) {
      const digested = await runTool([
        '--quiet',
        '--socket',
        vm.socket,
        'backup',
        '--level',
        'full',
        '--target',
        target,
      ]);
      times.note('FULL with digest', `${(digested.ms / 1000).toFixed(2)} s`);
      times.memory(digested.peakBytes, 150);
      await rm(target, { recursive: true });
    }
  }
  await vm.kill();

  const { ms } = times;
  print('copying, a disk of 4 GiB', RUNS, [
    ['node -e 0', seconds(ms('node -e 0')), ''],
    ['bare FULL job', seconds(ms('bare FULL job')), ''],
    [
      'qemu-img convert',
      seconds(ms('qemu-img convert')),
      `${ratio(ms('qemu-img convert'), ms('bare FULL job'))} × the bare job`,
    ],
    [
      'FULL, no digest',
      seconds(ms('FULL, no digest')),
      `${ratio(ms('FULL, no digest'), ms('bare FULL job'))} × the bare job (at most 1.10)`,
    ],
    ['bare INC job, 64 MiB', seconds(ms('bare INC job, 64 MiB')), ''],
    [
      'INC of 64 MiB',
      seconds(ms('INC of 64 MiB')),
      `${seconds(ms('INC of 64 MiB') - ms('bare INC job, 64 MiB'))} more (at most 0.35 s)`,
    ],
    [
      'INC of nothing',
      seconds(ms('INC of nothing')),
      `${ratio(ms('INC of nothing'), ms('node -e 0'))} × node -e 0 (the Python tool: 4.1)`,
    ],
    ...(process.env['QMPBACKUP_PEER'] ? [['the other tool', seconds(ms('the other tool')), '']] : []),
    ...times.notes(),
  ]);
}

/** From the freeze answer to the thaw request, beside a bare transaction of the same disks, at depth 1 and 31. */
async function benchFreeze(count: number): Promise<void> {
  const ids = Array.from({ length: count }, (_, index) => `d${index}`);
  const vm = await start(
    `freeze${count}`,
    ids.map((id) => ({ id, size: 64 * MiB })),
  );
  await vm.control.execute('cont');
  const agent = await FakeAgent.start();
  const target = join(dir, `freeze-${count}`);
  const rows: string[][] = [];
  const take = async (level: string): Promise<number> => {
    const sockets = ['--json', '--quiet', '--socket', vm.socket, '--agent-socket', describeEndpoint(agent.endpoint)];
    const { stdout } = await runTool([...sockets, 'backup', '--level', level, '--quiesce=require', '--target', target]);
    return (JSON.parse(stdout) as { freeze: { frozenMs: number } }).freeze.frozenMs;
  };
  await take('full');
  let depth = 1;
  for (const until of [1, 31]) {
    for (; depth < until; depth += 1) await take('inc');
    const times = new Samples();
    for (let run = 0; run < RUNS; run += 1) {
      times.addMs('bare', await bareTransaction(vm));
      times.addMs('frozen', await take('inc'));
      depth += 1;
    }
    const [bare, frozen] = [times.ms('bare'), times.ms('frozen')];
    const limit = 2 * bare + 10;
    rows.push([
      `depth ${until}`,
      `bare transaction ${bare.toFixed(1)} ms`,
      `frozen ${frozen.toFixed(1)} ms (at most ${limit.toFixed(1)})`,
    ]);
  }
  await agent.close();
  await vm.kill();
  print(`freeze answer to thaw request, ${count} disks`, RUNS, rows);
}

// --- peers ---------------------------------------------------------------------------------------------------------

/** The job alone, into the same place: from the transaction to its end, in ms. */
async function bareJob(vm: Vm, bitmap: string | null): Promise<number> {
  const staged = await stageAll(vm, bitmap);
  const jobs = staged.map(({ planned }) => planned.job);
  const begun = performance.now();
  await startPoint(vm.control, staged, { speed: 0, compress: false, timeoutMs: 60_000 });
  const outcomes = await watchJobs(vm.control, jobs, {
    signal: new AbortController().signal,
    intervalMs: 1000,
    onProgress: () => undefined,
  });
  const ms = performance.now() - begun;
  for (const { error } of outcomes) if (error) throw new Error(error);
  await takeAway(vm, staged);
  return ms;
}

/** A transaction of one bitmap and one job per disk, in ms. */
async function bareTransaction(vm: Vm): Promise<number> {
  const staged = await stageAll(vm, null, true);
  const begun = performance.now();
  await startPoint(vm.control, staged, { speed: 0, compress: false, timeoutMs: 60_000 });
  const ms = performance.now() - begun;
  const jobs = staged.map(({ planned }) => planned.job);
  await watchJobs(vm.control, jobs, { signal: AbortSignal.abort(), intervalMs: 200, onProgress: () => undefined });
  await takeAway(vm, staged);
  return ms;
}

async function stageAll(vm: Vm, copyBitmap: string | null, withBitmap = false): Promise<TransactionDisk[]> {
  const { disks } = await inspectVm(vm.control);
  return Promise.all(
    disks.map(async (source, index) => {
      const path = join(dir, `bare-${index}-${randomBytes(4).toString('hex')}.qcow2`);
      await createTarget(path, { size: source.virtualSize });
      return {
        path,
        aio: 'threads',
        fleece: null,
        planned: {
          disk: `bare${index}`,
          source,
          level: copyBitmap === null ? 'full' : 'inc',
          reason: '',
          file: '',
          parent: null,
          copyBitmap,
          newBitmap: withBitmap ? { name: `bench-${index}`, persistent: true } : null,
          job: `bench-${index}`,
        },
      } satisfies TransactionDisk;
    }),
  );
}

async function takeAway(vm: Vm, staged: readonly TransactionDisk[]): Promise<void> {
  for (const { planned, path } of staged) {
    await dismissJob(vm.control, planned.job);
    if (planned.newBitmap) {
      await vm.control.execute('block-dirty-bitmap-remove', {
        node: planned.source.address,
        name: planned.newBitmap.name,
      });
    }
    await rm(path);
  }
}

// --- tool ----------------------------------------------------------------------------------------------------------

async function newestFile(target: string): Promise<string> {
  const catalog = JSON.parse(await readFile(join(target, 'catalog.json'), 'utf8')) as {
    points: { disks: { disk: string; file: string }[] }[];
  };
  const entry = catalog.points.at(-1)!.disks[0]!;
  return join(target, entry.disk, entry.file);
}

async function start(name: string, disks: readonly { readonly id: string; readonly size: number }[]): Promise<Vm> {
  const made = disks.map(({ id, size }) => ({ id, size, file: join(dir, `${name}-${id}.qcow2`) }));
  for (const { file, size } of made) await createImage({ file, size, format: 'qcow2' });
  const vm = await startQemu({ dir: join(dir, name), name, disks: made.map(({ id, file }) => ({ id, file })) });
  started.push(vm);
  return vm;
}

/** Zeros written as data, as a guest does, not by write-zeroes. */
async function writeZeroData(vm: Vm): Promise<void> {
  await write(vm, 'disk', { offset: 3 * GiB, length: 256 * MiB, pattern: 0 });
  await writeZeroes(vm, 'disk', { offset: 3.5 * GiB, length: 16 * MiB });
}

async function bench(): Promise<void> {
  try {
    if (!flags.domain) {
      await benchCopying();
      for (const disks of [2, 8]) await benchFreeze(disks);
    }
    await benchDomain(RUNS);
  } finally {
    for (const vm of started) await vm.kill();
    await rm(dir, { recursive: true, force: true });
  }
}

if (flags.help) process.stdout.write('npm run bench -- [--runs N (5)] [--domain: only the part with libvirt]\n');
else await bench();
