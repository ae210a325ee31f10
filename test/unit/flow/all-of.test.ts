import { expect, it } from 'vitest';
import { allOf, eachDisk, endingTogether } from '../../../src/flow/all-of.js';

it('hands the results back in the order of the disks', async () => {
  await expect(eachDisk([3, 1, 2], (disk) => Promise.resolve(disk * 2))).resolves.toEqual([6, 2, 4]);
});

it('throws the first failure, and only when every disk has ended', async () => {
  const ended: string[] = [];
  let letGo = (): void => undefined;
  const held = new Promise<void>((resolve) => (letGo = resolve));
  const steps: Record<string, () => Promise<void>> = {
    slow: async () => {
      await held;
      ended.push('slow');
      throw new Error('later');
    },
    broken: () => {
      // Only after this disk has failed may the other one go on.
      setImmediate(letGo);
      return Promise.reject(new Error('first'));
    },
  };
  await expect(eachDisk(['slow', 'broken'], (disk) => steps[disk]!())).rejects.toThrow('first');
  expect(ended).toEqual(['slow']);
});

it('hands back results of different kinds, values among them', async () => {
  const [text, count, nothing] = await allOf([Promise.resolve('a'), 2, null]);
  expect([text.toUpperCase(), count + 1, nothing]).toEqual(['A', 3, null]);
});

it('ends the other steps with the first failure, and all of them with the signal from outside', async () => {
  const ended = (signal: AbortSignal): Promise<never> =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)));
  const { signal, step } = endingTogether(new AbortController().signal);
  await expect(allOf([step(ended(signal)), step(Promise.reject(new Error('first')))])).rejects.toThrow('first');
  expect(signal.reason).toEqual(new Error('first'));

  const outer = new AbortController();
  const inner = endingTogether(outer.signal);
  const steps = allOf([inner.step(ended(inner.signal)), inner.step(Promise.resolve())]);
  outer.abort(new Error('interrupted'));
  await expect(steps).rejects.toThrow('interrupted');
});
