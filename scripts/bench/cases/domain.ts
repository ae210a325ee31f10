/** A libvirt domain, in a libvirt of its own: FULL, INC and memory. */
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import type { Unwind } from '../../../src/flow/unwind.js';
import { syncFile } from '../../../src/host/durable.js';
import type { LabDomain } from '../../../test/support/lab/libvirt-domain.js';
import { type LibvirtLab, startLibvirt } from '../../../test/support/lab/libvirt.js';
import { against, beside, type Bench, type Case, GiB, type Measure, MiB, ofEachProgram, timed } from '../case.js';
import { change, makeDisk } from '../disks.js';
import { peakMemory } from '../peak-memory.js';
import { convert, emptyNode, peerIncrement, peerOf, runProgram } from '../programs.js';

const SIZE = 8 * GiB;
const DATA = 1.5 * GiB;
/** Where what libvirt and the program take for themselves (some 0.4 s) is less than a tenth. */
const MUCH = 6 * GiB;

const shape = { unit: 'ms', unasked: ['memory'] } as const;

export const domainFull: Case = {
  ...shape,
  name: 'domain-full',
  idea: 'FULL of a domain with 1.5 GiB as by default, against the quicker copy of the same export',
  limit: { by: 'times', atMost: null },
  bytes: () => 2.1 * DATA,
  prepare: (bench, unwind) => ofFull(bench, { data: DATA, how: [] }, unwind),
};

export const domainFullNoDigest: Case = {
  ...domainFull,
  name: 'domain-full-no-digest',
  idea: 'FULL --no-digest of a domain with 6 GiB, against the quicker copy of the same export',
  limit: { by: 'times', atMost: 1.1 },
  bytes: () => 2.1 * MUCH,
  prepare: (bench, unwind) => ofFull(bench, { data: MUCH, how: ['--no-digest'] }, unwind),
};

export const domainIncrement: Case = incrementOf(64 * MiB, {
  name: 'domain-increment',
  idea: 'INC of a domain, 64 MiB, against node -e 0',
  atMost: 8,
});

export const domainIncrementOfNothing: Case = incrementOf(0, {
  name: 'domain-increment-nothing',
  idea: 'INC of nothing of a domain, against node -e 0',
  atMost: null,
});

export const domainMemory: Case = {
  ...shape,
  name: 'domain-memory',
  idea: 'the most memory of a FULL of a domain with 1.5 GiB, with all that the program starts',
  unit: 'MiB',
  limit: { by: 'itself', atMost: 200 },
  bytes: () => 2.1 * DATA,
  prepare: async (bench, unwind) => {
    const lab = await libvirt(unwind);
    const domain = await define(lab, 'bench', DATA);
    return ofEachProgram(bench, (program) =>
      Promise.resolve(async () => {
        const target = join(bench.dir, 'target');
        const peak = await peakMemory(program, backup(lab, domain, 'full', target));
        await rm(target, { recursive: true });
        await forgetCheckpoints(lab, domain);
        return peak;
      }),
    );
  },
};

async function ofFull(
  bench: Bench,
  { data, how }: { readonly data: number; readonly how: readonly string[] },
  unwind: Unwind,
): Promise<readonly Measure[]> {
  const lab = await libvirt(unwind);
  const domain = await define(lab, 'bench', data);
  const target = join(bench.dir, 'target');
  const gone = async (ms: number): Promise<number> => {
    await rm(target, { recursive: true });
    await forgetCheckpoints(lab, domain);
    return ms;
  };
  const peer = peerOf('domain', { connect: lab.uri, domain: domain.name });
  return [
    ...(await ofEachProgram(bench, (program) =>
      Promise.resolve(async () =>
        gone(await timed(() => runProgram(program, [...backup(lab, domain, 'full', target), ...how]))),
      ),
    )),
    against('nbdcopy', () => copied(lab, domain, nbdcopy)),
    against('qemu-img convert', () => copied(lab, domain, (socket, to) => convert(exported(socket), to))),
    ...(peer ? [beside('the other tool', async () => gone(await timed(() => peer.run('full', target))))] : []),
  ];
}

/** Each program has a domain of its own: no checkpoint of the one is work for the other. */
function incrementOf(
  changed: number,
  { name, idea, atMost }: Pick<Case, 'name' | 'idea'> & { readonly atMost: number | null },
): Case {
  return {
    ...shape,
    name,
    idea,
    limit: { by: 'times', atMost },
    bytes: ({ programs, turns }) => (programs + 1) * (128 * MiB + (turns + 1) * (changed + MiB)),
    prepare: async (bench, unwind) => {
      const lab = await libvirt(unwind);
      const changing = async (domain: LabDomain): Promise<void> => {
        if (changed > 0) await change(domain, 'vda', changed);
      };
      const programs = await ofEachProgram(bench, async (program) => {
        const domain = await define(lab, program.role, 64 * MiB);
        const target = join(bench.dir, `target-${program.role}`);
        await runProgram(program, backup(lab, domain, 'full', target));
        return async () => {
          await changing(domain);
          return timed(() => runProgram(program, backup(lab, domain, 'inc', target)));
        };
      });
      const bare = await define(lab, 'bare', 64 * MiB);
      const peer = peerOf('domain', { connect: lab.uri, domain: bare.name });
      return [
        ...programs,
        against('node -e 0', emptyNode),
        ...(await peerIncrement(peer, bench.dir, () => changing(bare))),
      ];
    },
  };
}

async function libvirt(unwind: Unwind): Promise<LibvirtLab> {
  const lab = await startLibvirt();
  unwind.defer(() => lab.close());
  return lab;
}

async function define(lab: LibvirtLab, name: string, data: number): Promise<LabDomain> {
  const file = join(lab.dir, 'images', `${name}.qcow2`);
  await makeDisk(file, { size: SIZE, data });
  const domain = await lab.define({ name, disks: [{ target: 'vda', file }] });
  await domain.start();
  return domain;
}

function backup(lab: LibvirtLab, domain: LabDomain, level: string, target: string): readonly string[] {
  return ['--connect', lab.uri, '--domain', domain.uuid, 'backup', '--level', level, '--target', target];
}

async function forgetCheckpoints(lab: LibvirtLab, domain: LabDomain): Promise<void> {
  const { stdout } = await lab.virsh(['checkpoint-list', '--name', domain.uuid]);
  for (const name of stdout.split('\n').filter((line) => line !== '')) {
    await lab.virsh(['checkpoint-delete', domain.uuid, name]);
  }
}

/** A copy of the export of a pull that virsh alone has begun, as flushed as ours. */
async function copied(
  lab: LibvirtLab,
  domain: LabDomain,
  copy: (socket: string, to: string) => Promise<void>,
): Promise<number> {
  const socket = join(lab.dir, 'pull.sock');
  const scratch = `<scratch file='${join(lab.dir, 'images', 'scratch')}'/>`;
  const disks = `<disks><disk name='vda' type='file'>${scratch}</disk></disks>`;
  const xml = join(lab.dir, 'backup.xml');
  await writeFile(
    xml,
    `<domainbackup mode='pull'><server transport='unix' socket='${socket}'/>${disks}</domainbackup>`,
  );
  await lab.virsh(['backup-begin', domain.uuid, xml]);
  const to = join(lab.dir, 'copied.qcow2');
  const ms = await timed(() => copy(socket, to));
  await lab.virsh(['domjobabort', domain.uuid]);
  while (!/Job type:\s+None/.test((await lab.virsh(['domjobinfo', domain.uuid])).stdout)) await sleep(10);
  await rm(to);
  return ms;
}

async function nbdcopy(socket: string, to: string): Promise<void> {
  await execa('qemu-img', ['create', '-q', '-f', 'qcow2', to, String(SIZE)]);
  const server = ['[', 'qemu-nbd', '-f', 'qcow2', to, ']'];
  await execa('nbdcopy', ['--destination-is-zero', '--', exported(socket), ...server]);
  await syncFile(to);
}

function exported(socket: string): string {
  return `nbd+unix:///vda?socket=${socket}`;
}
