import { describe, expect, it } from 'vitest';
import { type CliResult, qmpbackup } from '../support/cli.js';
import { FAULTS_BEFORE, type Situation } from '../support/faults-before.js';
import { scenario, withFull, writeBoth } from '../support/scenario.js';

/**
 * Who asks `doctor` first is not surprised by the backup: where the backup then fails, `doctor` has said an error or a
 * warning, whatever the fault is. And where nothing is wrong, it says so, or nobody would listen.
 */
interface Answer {
  readonly error?: { readonly message: string };
  readonly findings?: readonly { readonly level: 'error' | 'warning' | 'info'; readonly what: string }[];
}

function ask(situation: Situation, command: 'doctor' | 'backup', ...more: string[]): Promise<CliResult> {
  const { vm, target, monthly, env } = situation;
  const at = ['--target', target, ...(monthly ? ['--monthly'] : [])];
  return qmpbackup(
    [...vm, '--json', command, ...at, ...more],
    env ? { env: { ...process.env, ...env, NO_COLOR: '1' }, extendEnv: false } : {},
  );
}

const auto = (situation: Situation): Promise<CliResult> =>
  ask(situation, 'backup', '--level', 'auto', ...(situation.backupOptions ?? []));

describe('doctor has said it where the backup then fails:', () => {
  it.each(FAULTS_BEFORE)('$what', async ({ ends, arrange }) => {
    const situation = await arrange();
    const said = await ask(situation, 'doctor');
    const { findings, error } = said.json<Answer>();
    const backup = await auto(situation);
    expect(`${backup.exitCode}: ${backup.stderr}`).toMatch(new RegExp(`^${ends}: `));
    const bad = findings?.filter(({ level }) => level !== 'info').map(({ what }) => what) ?? [error?.message];
    expect(bad, `doctor ended with ${said.exitCode}; the backup: ${backup.stderr}`).not.toEqual([]);
  });
});

describe('doctor says that nothing stands in the way where the backup succeeds:', () => {
  it.each([
    ['for the first time', () => scenario()],
    ['in a chain', () => withFull()],
  ])('%s', async (_, make) => {
    const lab = await make();
    await writeBoth(lab, 1, 0x41);
    const situation = { vm: ['--socket', lab.vm.socket], target: lab.target };
    const said = await ask(situation, 'doctor');
    expect(said.json<Answer>().findings?.filter(({ level }) => level !== 'info')).toEqual([]);
    expect(said.exitCode).toBe(0);
    expect((await auto(situation)).exitCode).toBe(0);
  });
});
