import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { messageOf } from '../../src/errors.js';
import { TEMPORARY } from '../../src/repository/scratch-place.js';
import { MiB } from '../support/builders.js';
import { ensureBuilt } from '../support/built.js';
import { expectCli } from '../support/cli.js';
import { crashCli, type CrashPoint } from '../support/crash-point.js';
import { write } from '../support/lab/guest-writes.js';
import { patient } from '../support/patience.js';
import { scenario, type Scenario } from '../support/scenario.js';

/**
 * A stream has its journal in a folder that nobody names. Whatever step it and its guards are killed at, the next run of the VM finds that, and the VM is
 * as it was.
 */
beforeAll(ensureBuilt, patient(180_000));

const STEPS: readonly (CrashPoint & { readonly name: string; readonly nobodys?: true })[] = [
  { name: 'before the journal', when: 'before', call: 'rename', matches: /run\.json$/, nobodys: true },
  { name: 'after the journal', when: 'after', call: 'rename', matches: /run\.json$/ },
  { name: 'while staging', when: 'after', call: 'open', matches: /\.partial/ },
  { name: 'after a scratch image was opened', when: 'after', call: 'send', matches: /"driver":"qcow2"/ },
  { name: 'before the VM stands still', when: 'before', call: 'send', matches: /"stop"/ },
  { name: 'when the VM stands still', when: 'after', call: 'send', matches: /"stop"/ },
  { name: 'after a filter was made', when: 'after', call: 'send', matches: /"copy-before-write"/ },
  { name: 'after a filter went in', when: 'after', call: 'send', matches: /"qom-set"/ },
  { name: 'before the VM goes on', when: 'before', call: 'send', matches: /"cont"/ },
  { name: 'when the VM goes on', when: 'after', call: 'send', matches: /"cont"/ },
  { name: 'after the NBD server was started', when: 'after', call: 'send', matches: /"nbd-server-start"/ },
  { name: 'after an export', when: 'after', call: 'send', matches: /"block-export-add"/, nth: 2 },
  { name: 'before the filters go out', when: 'before', call: 'send', matches: /"nbd-server-stop"/ },
  { name: 'after a filter went out', when: 'after', call: 'send', matches: /"qom-set"/, nth: 3 },
  { name: 'before the catalog', when: 'before', call: 'rename', matches: /catalog\.json$/ },
  { name: 'after the catalog', when: 'after', call: 'rename', matches: /catalog\.json$/ },
  { name: 'before the journal goes', when: 'before', call: 'rm', matches: /run\.json$/ },
  { name: 'before the folder goes', when: 'before', call: 'rm', matches: /qmpbackup-stream-[^/]*$/, nobodys: true },
];

const nextRuns: readonly ((lab: Scenario, folder: string) => Promise<unknown>)[] = [
  (lab) => lab.backup('auto'),
  async (lab, folder) => {
    const dry = await expectCli(0, [...vm(lab), '--json', 'recover', '--target', lab.dir, '--dry-run']);
    expect(dry.stdout).toContain(folder);
    await expectCli(0, [...vm(lab), 'recover', '--target', lab.dir]);
  },
  (lab) => expectCli(0, [...vm(lab), ...STREAM]),
];

const STREAM = ['backup', '--level', 'copy', '--output', '-'];
const vm = (lab: Scenario): readonly string[] => ['--socket', lab.vm.socket];

async function foldersOf(pid: number): Promise<readonly string[]> {
  return (await readdir(TEMPORARY)).filter((name) => name.startsWith(`qmpbackup-stream-${pid}-`));
}

async function statusOf(lab: Scenario): Promise<string> {
  return ((await lab.vm.control.execute('query-status')) as { readonly status: string }).status;
}

it(
  'a stream that is killed with its guards at any step is put right by the next run of the VM',
  async () => {
    const lab = await scenario();
    await write(lab.vm, 'd1', { offset: 0, length: 2 * MiB, pattern: 1 });
    await lab.vm.control.execute('cont');
    for (const [index, { name, nobodys, ...step }] of STEPS.entries()) {
      try {
        const pid = await crashCli({ ...step, guards: 'die' }, [...vm(lab), ...STREAM]);
        // Without a journal any run of any VM takes it away, those of other tests, too.
        const [folder = 'none'] = nobodys ? [] : await foldersOf(pid);
        const doctor = await expectCli(0, [...vm(lab), 'doctor']);
        if (!nobodys) expect(doctor.stdout).toContain(`has left something in ${join(TEMPORARY, folder)}`);
        await nextRuns[index % nextRuns.length]?.(lab, nobodys ? '' : join(TEMPORARY, folder));
        expect(await foldersOf(pid)).toEqual([]);
        expect(await statusOf(lab)).toBe('running');
        await lab.expectNothingLeft(2);
      } catch (error) {
        throw new Error(`killed ${name}: ${messageOf(error)}`, { cause: error });
      }
    }
    await lab.backup('auto');
    await lab.expectChainEqualsDisks();
    expect((await readdir(lab.dir, { recursive: true })).filter((each) => each.includes('.scratch'))).toEqual([]);
  },
  patient(400_000),
);
