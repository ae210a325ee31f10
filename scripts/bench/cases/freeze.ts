/**
 * How long a guest is frozen for: from the answer of its agent to the request to thaw, as the agent sees it, against the
 * transaction alone. The agent is one that freezes nothing; the disks have data, so that jobs have work at once.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Unwind } from '../../../src/flow/unwind.js';
import { describeEndpoint } from '../../../src/qmp/endpoint.js';
import { FakeAgent } from '../../../test/support/fake-agent.js';
import type { Vm } from '../../../test/support/lab/qemu.js';
import { type BareLevel, bareTransaction, forgetChanges, recordChanges } from '../bare-jobs.js';
import { against, type Case, GiB, MiB, ofEachProgram } from '../case.js';
import { change, removeBitmaps, startVm } from '../disks.js';
import { runProgram } from '../programs.js';

/** Bytes of each VM. */
const DATA = GiB;
const CHANGED = 8 * MiB;

export const freezes: readonly Case[] = [freeze(2, 'full'), freeze(2, 'inc'), freeze(8, 'full'), freeze(8, 'inc')];

function freeze(count: number, level: BareLevel): Case {
  return {
    name: `freeze-${count}-${level}`,
    idea: `freeze window of ${count} disks, ${level.toUpperCase()}, against the bare transaction`,
    unit: 'ms',
    limit: { by: 'more', atMost: 8 },
    bytes: ({ programs, turns }) => (2 * programs + 1) * DATA + programs * turns * count * CHANGED,
    unasked: ['memory'],
    turns: 3,
    prepare: async (bench, unwind) => {
      const disks = Array.from({ length: count }, (_, index) => ({
        ...{ id: `d${index}`, size: DATA / count, data: DATA / count },
      }));
      const start = async (name: string): Promise<Vm> => {
        const vm = await startVm(bench.dir, name, disks, unwind);
        await vm.control.execute('cont');
        return vm;
      };
      const changeAll = async (vm: Vm): Promise<void> => {
        for (const { id } of disks) await change(vm, id, CHANGED);
      };
      const programs = await ofEachProgram(bench, async (program) => {
        const vm = await start(program.role);
        const agent = await startAgent(unwind);
        const target = join(bench.dir, `target-${program.role}`);
        const sockets = ['--socket', vm.socket, '--agent-socket', describeEndpoint(agent.endpoint)];
        const backup = (how: string): Promise<string> =>
          runProgram(program, [...sockets, 'backup', '--level', how, '--quiesce=require', '--target', target]);
        if (level === 'inc') await backup('full');
        return async () => {
          if (level === 'inc') await changeAll(vm);
          await backup(level);
          if (level === 'full') {
            await rm(target, { recursive: true });
            await removeBitmaps(vm);
          }
          return lastWindow(agent);
        };
      });
      const bare = await start('bare');
      return [
        ...programs,
        against('the bare transaction', async () => {
          if (level === 'full') return bareTransaction(bare, bench.dir, level);
          await recordChanges(bare);
          await changeAll(bare);
          const ms = await bareTransaction(bare, bench.dir, level);
          await forgetChanges(bare);
          return ms;
        }),
      ];
    },
  };
}

async function startAgent(unwind: Unwind): Promise<FakeAgent> {
  const agent = await FakeAgent.start();
  unwind.defer(() => agent.close());
  return agent;
}

/** Milliseconds. */
function lastWindow({ changes, received }: FakeAgent): number {
  const frozen = changes.findLast((each) => each.frozen)?.at ?? Number.NaN;
  const thaw = received.find(({ command, at }) => command === 'guest-fsfreeze-thaw' && at > frozen);
  if (!thaw) throw new Error('the guest was not frozen and thawed');
  return thaw.at - frozen;
}
