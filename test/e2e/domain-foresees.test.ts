import { describe, expect, it } from 'vitest';
import { domainScenario, domainWithFull } from '../support/domain-scenario.js';
import { domainFaultsBefore } from '../support/faults-before-domain.js';
import { backUp, diagnose, expectForeseen } from '../support/foreseen.js';
import { useLibvirt } from '../support/use-libvirt.js';

const lab = useLibvirt();

describe('doctor --domain has said it where the backup then fails:', () => {
  it.each(domainFaultsBefore(() => lab))('$what', expectForeseen);
});

describe('doctor --domain says that nothing stands in the way where the backup succeeds:', () => {
  it.each([
    ['for the first time', domainScenario],
    ['in a chain', domainWithFull],
  ])('%s', async (_, make) => {
    const situation = await make(lab);
    expect(await diagnose(situation)).toEqual({ exitCode: 0, bad: [] });
    expect((await backUp(situation)).exitCode).toBe(0);
  });
});
