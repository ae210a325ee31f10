import { describe, expect, it } from 'vitest';
import { jobOf } from '../../../src/libvirt/domain.js';
import { VirshError } from '../../../src/libvirt/errors.js';
import type { Virsh } from '../../../src/libvirt/virsh.js';

describe('jobOf', () => {
  const changing = new VirshError('domjobinfo', 'internal error: backup job data missing');
  const answering = (answers: (string | Error)[]): Virsh => {
    return () => {
      const answer = answers.shift() ?? changing;
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
    };
  };

  it('asks again while a job is just beginning or ending', async () => {
    expect(await jobOf(answering([changing, changing, 'Job type: 0\n']), 'uuid')).toBeNull();
    expect(await jobOf(answering([changing, 'Job type: 2\noperation: 9\n']), 'uuid')).toMatchObject({
      state: 'running',
      operation: 'backup',
    });
  });

  it('not for ever, and not after another error', async () => {
    await expect(jobOf(answering([]), 'uuid')).rejects.toBe(changing);
    const other = new VirshError('domjobinfo', 'internal error: something else');
    await expect(jobOf(answering([other, 'Job type: 0\n']), 'uuid')).rejects.toBe(other);
  });
});
