import type { AskedPoint } from '../../backends/vm-options.js';
import { QmpBackupError } from '../../errors.js';
import { openPoint } from '../../repository/open-point.js';

interface Running {
  readonly target: string;
  readonly point: { readonly id: string; readonly name: string };
  /** What runs, in words. */
  readonly as: string;
}

/** @throws QmpBackupError `locked` where what runs from the folder is of another point than was asked for */
export async function refuseOther(
  { target: its, point: known, as }: Running,
  target: string,
  asked: AskedPoint | null,
): Promise<void> {
  const id = asked === null ? known.id : (await openPoint(target, asked, { look: 'catalog' })).point.id;
  if (its === target && id === known.id) return;
  throw new QmpBackupError('locked', `a VM of ${known.name} of ${its} runs from that folder (${as})`, {
    hint: 'Choose another folder, or end that VM first.',
  });
}
