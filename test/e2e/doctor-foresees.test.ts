import { describe, expect, it } from 'vitest';
import { FAULTS_BEFORE } from '../support/faults-before.js';
import { backUp, diagnose, expectForeseen } from '../support/foreseen.js';
import { scenario, withFull, writeBoth } from '../support/scenario.js';

/**
 * Who asks `doctor` first is not surprised by the backup: where the backup then fails, `doctor` has said an error or a
 * warning, whatever the fault is. And where nothing is wrong, it says so, or nobody would listen.
 */
describe('doctor has said it where the backup then fails:', () => {
  it.each(FAULTS_BEFORE)('$what', expectForeseen);
});

describe('doctor says that nothing stands in the way where the backup succeeds:', () => {
  it.each([
    ['for the first time', () => scenario()],
    ['in a chain', () => withFull()],
  ])('%s', async (_, make) => {
    const lab = await make();
    await writeBoth(lab, 1, 0x41);
    const situation = { vm: ['--socket', lab.vm.socket], target: lab.target };
    expect(await diagnose(situation)).toEqual({ exitCode: 0, bad: [] });
    expect((await backUp(situation)).exitCode).toBe(0);
  });
});
