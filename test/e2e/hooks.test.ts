import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { startCli } from '../support/cli.js';
import { type Fleet, fleet, vmsSection } from '../support/fleet.js';
import { patient } from '../support/patience.js';

// Commands before and after a VM and a run: what they are told, what their end means, and that nothing of them is left.

interface Answer {
  readonly vms: readonly {
    readonly vm: string;
    readonly run: {
      readonly result: string;
      readonly steps: readonly { readonly verb: string; readonly result: string; readonly why: string | null }[];
    };
  }[];
  readonly notBegun: readonly string[];
  readonly warnings: readonly { readonly code: string; readonly text: string }[];
}

/** A hook that writes down what it was told, prints a line, and ends with what a file of its name says. */
async function recorder(lab: Fleet): Promise<string> {
  const path = join(lab.dir, 'hook');
  await writeFile(
    path,
    `#!/bin/sh
who="\${QMPBACKUP_VM:-run}"
echo "$QMPBACKUP_HOOK $who $QMPBACKUP_RESULT $*" >>${lab.dir}/told
cat >"${lab.dir}/json-$QMPBACKUP_HOOK-$who"
echo "said by $QMPBACKUP_HOOK"
exit "$(cat "${lab.dir}/exit-$QMPBACKUP_HOOK-$who" 2>/dev/null || echo 0)"
`,
    { mode: 0o755 },
  );
  return path;
}

async function told(lab: Fleet): Promise<readonly string[]> {
  const text = await readFile(join(lab.dir, 'told'), 'utf8');
  await writeFile(join(lab.dir, 'told'), '');
  return text.replace(/\n$/, '').split('\n');
}

function stepsOf(answer: Answer, vm: string): Record<string, string> {
  const found = answer.vms.find((each) => each.vm === vm);
  return Object.fromEntries((found?.run.steps ?? []).map(({ verb, result }) => [verb, result]));
}

/** Processes whose command line has `word` in it. */
async function processesWith(word: string): Promise<readonly string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
  return lines.filter((line) => line.includes(word));
}

describe('hooks', () => {
  it('may print and hear what they like', async () => {
    const lab = await fleet(['web1']);
    const configure = (hooks: string): Promise<void> =>
      lab.configure(`
defaults: { target: "${lab.backups}/{vm}", hooks: ${hooks} }
${vmsSection(lab)}
`);
    // More than is logged, and bytes that are no text.
    await configure(`{ before: "yes line | head -n 5000; echo last >&2; exec <&-; exit 3" }`);
    const many = await lab.cli(1, 'run');
    expect(many.stderr).toMatch(/before-hook: it prints more than 1000 lines: the others are not told/);
    expect(many.stderr.split('\n').length).toBeLessThan(1_100);
    expect(many.stderr).toMatch(/before-hook failed: exit code 3: (last|line)/);

    await configure(`{ before: "head -c 150000 /dev/urandom; printf '\\\\033[31mred\\\\000'" }`);
    const odd = await lab.cli(0, 'run');
    // eslint-disable-next-line no-control-regex -- these are what must not be there
    expect(/[\u0000-\u0008\u000b-\u001f\u007f]/.test(odd.stderr)).toBe(false);
    expect(/before-hook: .*\?\[31mred\?/.test(odd.stderr)).toBe(true);
  });

  it('are told what there is to know, and decide whether a VM is backed up', async () => {
    const lab = await fleet(['web1', 'web2', 'web3']);
    const hook = await recorder(lab);
    await lab.configure(`
defaults:
  target: "${lab.backups}/{vm}"
  keep: { last: 5 }
  hooks: { before: [${hook}, "for {vm}"], after: [${hook}], on-error: '${hook} shell {vm}' }
${vmsSection(lab)}
run: { hooks: { before: [${hook}], after: [${hook}], on-error: [${hook}] } }
`);
    await writeFile(join(lab.dir, 'exit-before-web2'), '75');
    await writeFile(join(lab.dir, 'exit-before-web3'), '4');
    const result = await lab.cli(3, 'run', '--json');
    const answer = result.json<Answer>();
    expect(stepsOf(answer, 'web1')).toEqual({ 'before-hook': 'ok', backup: 'ok', prune: 'ok', 'after-hook': 'ok' });
    expect(stepsOf(answer, 'web2')).toEqual({ 'before-hook': 'skipped', 'after-hook': 'ok' });
    expect(stepsOf(answer, 'web3')).toEqual({ 'before-hook': 'failed', 'on-error-hook': 'ok', 'after-hook': 'ok' });
    expect(answer.vms.map(({ run }) => run.result)).toEqual(['ok', 'skipped', 'failed']);
    expect(answer.vms[2]!.run.steps[0]!.why).toBe('exit code 4: said by before');
    expect((await readdir(lab.backups)).toSorted()).toEqual(['web1']);
    expect(await told(lab)).toEqual([
      ...['before run  ', 'before web1  for web1', 'after web1 ok ', 'before web2  for web2', 'after web2 skipped '],
      ...['before web3  for web3', 'on-error web3 failed shell {vm}', 'after web3 failed '],
      ...['on-error run failed ', 'after run failed '],
    ]);
    expect(result.stderr).toMatch(/web1: before-hook: said by before/);
    const json = async (name: string): Promise<Record<string, unknown>> =>
      JSON.parse(await readFile(join(lab.dir, `json-${name}`), 'utf8')) as Record<string, unknown>;
    expect(await json('after-web1')).toMatchObject({
      ...{ schema: 1, hook: 'after', vm: 'web1', target: join(lab.backups, 'web1'), result: 'ok', why: null },
      steps: [{ verb: 'before-hook' }, { verb: 'backup', result: 'ok' }, { verb: 'prune' }],
    });
    expect(await json('after-run')).toMatchObject({ vm: null, result: 'failed', vms: [{ vm: 'web1' }, {}, {}] });
    expect((await lab.cli(2, 'status')).stdout).toMatch(/critical: web3: before-hook failed: exit code 4/);

    // One that fails afterwards is a warning: the point is there.
    await writeFile(join(lab.dir, 'exit-before-web2'), '0');
    await writeFile(join(lab.dir, 'exit-before-web3'), '0');
    await writeFile(join(lab.dir, 'exit-after-web1'), '1');
    const warned = (await lab.cli(0, 'run', '--json')).json<Answer>();
    expect(warned.vms.map(({ run }) => run.result)).toEqual(['warnings', 'ok', 'ok']);
    await told(lab);
    expect((await lab.cli(0, 'run', '--dry-run')).stderr).toMatch(/web1: before-hook: would be run: .*hook for web1/);
    expect(await told(lab)).toEqual(['']);
    // Of a run: 75 begins nothing, another code fails it.
    await writeFile(join(lab.dir, 'exit-before-run'), '75');
    expect((await lab.cli(3, 'run', '--json')).json<Answer>().notBegun).toEqual(['web1', 'web2', 'web3']);
    expect(await told(lab)).toEqual(['before run  ', 'after run skipped ']);
    await writeFile(join(lab.dir, 'exit-before-run'), '9');
    expect((await lab.cli(1, 'run')).stderr).toMatch(/the hook before of the run failed: exit code 9: said by before/);
    expect(await told(lab)).toEqual(['before run  ', 'on-error run failed ', 'after run failed ']);
  });

  it('are ended soon after their deadline also where the run was killed', async () => {
    const lab = await fleet(['web1']);
    const mark = `6${String(process.pid).padStart(7, '0')}`;
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}", hooks: { before: "sleep ${mark} & sleep ${mark}", timeout: 1s } }
${vmsSection(lab)}
`);
    const killed = startCli(['run', '--config', lab.config], { env: lab.env });
    await expect.poll(() => processesWith(mark), { timeout: patient(10_000) }).not.toHaveLength(0);
    process.kill(killed.pid!, 'SIGKILL');
    await killed;
    expect(await processesWith(mark)).not.toHaveLength(0);
    await expect.poll(() => processesWith(mark), { timeout: patient(30_000) }).toHaveLength(0);
  });

  it('are ended with all that they have started, at their deadline and with the run', async () => {
    const lab = await fleet(['web1']);
    const mark = `7${String(process.pid).padStart(7, '0')}`;
    const configure = (hooks: string): Promise<void> =>
      lab.configure(`
defaults: { target: "${lab.backups}/{vm}", hooks: ${hooks} }
${vmsSection(lab)}
`);
    // A child that does not listen, and one in the background that holds the output.
    const stubborn = `"trap '' TERM; sleep ${mark} & echo begun; sleep ${mark}"`;
    await configure(`{ before: ${stubborn}, timeout: 1s }`);
    const late = (await lab.cli(1, 'run', '--json')).json<Answer>();
    expect(late.vms[0]!.run.steps.map(({ why }) => why)).toEqual([
      'it did not end within 1 s, or something that it has started holds its output',
    ]);
    expect(await processesWith(mark)).toEqual([]);

    await configure(`{ before: ${stubborn}, after: "touch ${lab.dir}/tidied" }`);
    const ended = startCli(['run', '--config', lab.config], { env: lab.env });
    await expect.poll(() => processesWith(mark)).not.toHaveLength(0);
    // Not by execa, which kills what has not ended within 5 s.
    process.kill(ended.pid!, 'SIGTERM');
    expect((await ended).exitCode).toBe(143);
    expect(await processesWith(mark)).toEqual([]);
    expect(await readdir(lab.dir)).toContain('tidied');

    // What a run was told before it was ended is told to its own hooks.
    const json = join(lab.dir, 'after.json');
    await lab.configure(`
defaults: { target: "${lab.backups}/{vm}", hooks: { before: 'sleep ${mark}' } }
${vmsSection(lab)}
run: { hooks: { after: 'cat >${json}' } }
`);
    const again = startCli(['run', '--config', lab.config], { env: lab.env });
    await expect.poll(() => processesWith(mark)).not.toHaveLength(0);
    process.kill(again.pid!, 'SIGTERM');
    expect((await again).exitCode).toBe(143);
    expect(JSON.parse(await readFile(json, 'utf8'))).toMatchObject({
      ...{ result: 'failed', why: 'interrupted by SIGTERM' },
      vms: [{ vm: 'web1', run: { result: 'failed' } }],
    });

    await configure(`{ before: [${lab.dir}/none] }`);
    expect((await lab.cli(1, 'run')).stderr).toMatch(/web1: before-hook failed: .*\/none could not be started/);
  });
});
