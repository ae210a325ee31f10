import { expect, it } from 'vitest';
import { inTurns } from '../../../src/run/turns.js';

interface Item {
  readonly of: string;
  readonly name: string;
}

const ITEMS: readonly Item[] = ['a1', 'a2', 'a3', 'b1', 'b2', 'c1'].map((name) => ({ of: name.slice(0, 1), name }));

async function follow(
  most: number,
  mostOfOne: number | null,
): Promise<{ most: number; mostOfOne: number; begun: string[] }> {
  const seen = { most: 0, mostOfOne: 0, begun: [] as string[] };
  const underWay: Item[] = [];
  await inTurns(ITEMS, { most, mostOfOne }, async (item) => {
    seen.begun.push(item.name);
    underWay.push(item);
    seen.most = Math.max(seen.most, underWay.length);
    seen.mostOfOne = Math.max(seen.mostOfOne, underWay.filter(({ of }) => of === item.of).length);
    for (let turn = 0; turn < 3; turn += 1) await Promise.resolve();
    underWay.splice(underWay.indexOf(item), 1);
  });
  return seen;
}

it('does all, so many at a time', async () => {
  expect(await follow(1, null)).toEqual({ most: 1, mostOfOne: 1, begun: ITEMS.map(({ name }) => name) });
  expect(await follow(2, null)).toMatchObject({ most: 2, mostOfOne: 2 });
  expect((await follow(20, null)).most).toBe(6);
});

it('does so many of one at a time, and others meanwhile', async () => {
  const seen = await follow(3, 1);
  expect(seen).toMatchObject({ most: 3, mostOfOne: 1 });
  expect(seen.begun.slice(0, 3)).toEqual(['a1', 'b1', 'c1']);
  expect(seen.begun.toSorted()).toEqual(ITEMS.map(({ name }) => name).toSorted());
});

it('goes on where one fails, and tells it at the end', async () => {
  const done: string[] = [];
  const all = inTurns(ITEMS, { most: 2, mostOfOne: null }, ({ name }) => {
    done.push(name);
    return name === 'a1' ? Promise.reject(new Error('a1 failed')) : Promise.resolve();
  });
  await expect(all).rejects.toThrow('a1 failed');
  expect(done).toHaveLength(ITEMS.length);
});
