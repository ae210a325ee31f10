import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { TRICKLE } from '../../src/qemu/job-watch.js';
import { describeEndpoint } from '../../src/qmp/endpoint.js';
import { MiB } from '../support/builders.js';
import { FakeAgent } from '../support/fake-agent.js';
import { write } from '../support/lab/guest-writes.js';
import { afterTest, type Scenario, scenario } from '../support/scenario.js';

/** What a client of the monitor sees of the jobs. */
interface SeenJob {
  readonly offset: number;
  readonly len: number;
  readonly speed: number;
}

const DATA = 16 * MiB;

async function jobsOf({ vm }: Scenario): Promise<readonly SeenJob[]> {
  return (await vm.control.execute('query-block-jobs')) as readonly SeenJob[];
}

/** What the jobs are like half a second after the agent was asked to thaw, before it has thawed. */
async function whileFrozen(lab: Scenario, level: string, ...more: string[]): Promise<readonly SeenJob[]> {
  let seen: readonly SeenJob[] = [];
  const agent = await FakeAgent.start({
    script: (command, count) => {
      if (command !== 'guest-fsfreeze-thaw' || count > 1) return undefined;
      const looked = async (): Promise<void> => {
        await sleep(500);
        seen = await jobsOf(lab);
      };
      return { until: looked() };
    },
  });
  afterTest(() => agent.close());
  await lab.vm.control.execute('cont');
  const args = ['--agent-socket', describeEndpoint(agent.endpoint), '--quiesce=require', ...more];
  expect((await lab.backup(level, ...args)).point.consistency).toBe('filesystem');
  return seen;
}

describe('the jobs of a frozen guest', () => {
  it.each(['never', 'always'])(
    'copy next to nothing before it is thawed, and then all: --fleece %s',
    async (fleece) => {
      const lab = await scenario();
      for (const disk of ['d1', 'd2']) await write(lab.vm, disk, { offset: 0, length: DATA, pattern: 0x11 });
      const full = await whileFrozen(lab, 'full', '--fleece', fleece);
      for (const disk of ['d1', 'd2']) await write(lab.vm, disk, { offset: MiB, length: DATA / 2, pattern: 0x22 });
      const inc = await whileFrozen(lab, 'inc', '--fleece', fleece);
      for (const jobs of [full, inc]) {
        // A snapshot waits for them as long as they like.
        expect(jobs).toHaveLength(fleece === 'always' ? 0 : 2);
        for (const { offset, len, speed } of jobs) {
          expect(speed).toBe(TRICKLE);
          // At once all would be copied by now.
          expect(offset).toBeLessThanOrEqual(MiB + len / 2);
        }
      }
      await lab.expectChainEqualsDisks();
      await lab.expectNothingLeft(2);
    },
  );
});

it('the jobs of a frozen guest get the speed that was asked for', async () => {
  const lab = await scenario();
  await write(lab.vm, 'd1', { offset: 0, length: DATA, pattern: 0x11 });
  let seen: readonly SeenJob[] = [];
  const look = setInterval(() => {
    void jobsOf(lab).then((jobs) => {
      if (jobs.some(({ speed }) => speed === 32 * MiB)) seen = jobs;
    });
  }, 50);
  await whileFrozen(lab, 'full', '--speed-limit', '32M').finally(() => clearInterval(look));
  expect(seen).not.toEqual([]);
  await lab.expectChainEqualsDisks();
});

it('a job with nothing to copy ends although its speed can no longer be set', async () => {
  const lab = await scenario();
  await lab.backup('full');
  await whileFrozen(lab, 'inc');
  await lab.expectChainEqualsDisks();
  await lab.expectNothingLeft(2);
});
