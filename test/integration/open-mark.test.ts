import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { thisProcess } from '../../src/host/lock-owner.js';
import { clearDeadMarks, leaveMark, refuseOpenFiles } from '../../src/repository/open-mark.js';
import { refusal } from '../support/chains.js';
import { labDir } from '../support/scenario.js';

const FULL = 'd1/FULL-1.qcow2';
const MARK = 'open-0123456789abcdef.json';
const asked = { breakLock: false, dryRun: false };

async function withMark(owner: object, files: unknown = [FULL]): Promise<string> {
  const target = await labDir();
  await writeFile(join(target, MARK), JSON.stringify({ ...thisProcess('serve of point 1'), ...owner, files }));
  return target;
}

describe('a mark', () => {
  it('keeps others from its files and from no other, until it is taken back', async () => {
    const target = await labDir();
    const takeBack = await leaveMark(target, 'serve of point 1', [FULL]);
    const refused = await refusal(refuseOpenFiles(target, ['d1/INC-2.qcow2', FULL], { ...asked, breakLock: true }));
    expect(refused.code).toBe('locked');
    expect(refused.message).toMatch(new RegExp(`^${FULL} is open: serve of point 1 \\(pid ${process.pid} on `));
    await refuseOpenFiles(target, ['d2/FULL-1.qcow2'], asked);
    await clearDeadMarks(target);
    expect(await readdir(target)).toHaveLength(1);
    await takeBack();
    await refuseOpenFiles(target, [FULL], asked);
    expect(await readdir(target)).toEqual([]);
  });

  it('of a dead process counts for nothing, and is removed unless nothing is to be changed', async () => {
    const target = await withMark({ processStartTime: '1' });
    await refuseOpenFiles(target, [FULL], { ...asked, dryRun: true });
    expect(await readdir(target)).toEqual([MARK]);
    await refuseOpenFiles(target, [FULL], asked);
    expect(await readdir(target)).toEqual([]);
    const earlier = await withMark({ bootId: 'an earlier one' });
    await writeFile(join(earlier, `${MARK}.tmp`), '{');
    await clearDeadMarks(earlier);
    expect(await readdir(earlier)).toEqual([]);
  });

  it.each([
    ['of another host', { host: 'elsewhere', machineId: 'f'.repeat(32) }, [FULL]],
    ['that cannot be understood', { pid: 'none' }, [FULL]],
    ['without its files', { host: 'elsewhere' }, 'all'],
  ])('%s counts unless somebody says that its process has ended', async (_, owner, files) => {
    const target = await withMark(owner, files);
    await clearDeadMarks(target);
    const { code, hint } = await refusal(refuseOpenFiles(target, [FULL], asked));
    expect([code, hint]).toEqual(['locked', expect.stringContaining('--break-lock')]);
    await refuseOpenFiles(target, [FULL], { ...asked, breakLock: true });
    expect(await readdir(target)).toEqual([]);
  });
});
