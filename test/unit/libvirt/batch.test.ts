import { expect, it } from 'vitest';
import { batched } from '../../../src/libvirt/batch.js';

const seen: string[][] = [];
const ask = batched(3, (questions: readonly string[]) => {
  seen.push([...questions]);
  if (questions.includes('all fail')) return Promise.reject(new Error('nobody is there'));
  return Promise.resolve(
    questions.map((each) => (each === 'fails' ? Promise.reject<string>(new Error('no')) : each.toUpperCase())),
  );
});

it('hands on together what is asked at once, and each answer to who asked', async () => {
  seen.length = 0;
  const answers = Promise.all([ask('a'), (async () => `${await ask('b')}!`)(), ask('c')]);
  await expect(answers).resolves.toEqual(['A', 'B!', 'C']);
  await expect(ask('later')).resolves.toBe('LATER');
  expect(seen).toEqual([['a', 'b', 'c'], ['later']]);
});

it('asks no more at a time than may be', async () => {
  seen.length = 0;
  const all = ['1', '2', '3', '4', '5', '6', '7'];
  await expect(Promise.all(all.map(ask))).resolves.toEqual(all);
  expect(seen).toEqual([['1', '2', '3'], ['4', '5', '6'], ['7']]);
});

it('gives an error to who asked for it, and one that is of all to all', async () => {
  const failed = { status: 'rejected', reason: new Error('no') };
  await expect(Promise.allSettled([ask('fails'), ask('told')])).resolves.toEqual([
    failed,
    { status: 'fulfilled', value: 'TOLD' },
  ]);
  const nobody = { status: 'rejected', reason: new Error('nobody is there') };
  await expect(Promise.allSettled([ask('all fail'), ask('x')])).resolves.toEqual([nobody, nobody]);
});
