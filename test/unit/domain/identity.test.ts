import { describe, expect, it } from 'vitest';
import { displayName, rememberedIdentity, whyAnotherVm } from '../../../src/domain/identity.js';
import { bitmap, catalog, entry, point, source } from '../../support/builders.js';

const nobody = { uuid: null, name: null, label: null };
const full = entry('a', 'FULL-1.qcow2');
const held = catalog([point(0, [full])]);
const why = (recorded: Partial<typeof nobody> | object, seen: object, sources = [source('z')]): string | undefined =>
  whyAnotherVm({ ...nobody, ...recorded }, { ...nobody, ...seen }, held, sources);

describe('a target belongs to the VM', () => {
  it('of its UUID, whatever the name', () => {
    expect(why({ uuid: 'u1', name: 'old' }, { uuid: 'u1', name: 'new' })).toBeUndefined();
    expect(why({ uuid: 'u1', name: 'vm' }, { uuid: 'u2', name: 'vm' })).toContain('u1');
  });

  it('else of its name, for which --vm-name stands in', () => {
    expect(why({ name: 'vm' }, { name: 'vm' })).toBeUndefined();
    expect(why({ name: 'vm' }, { label: 'vm' })).toBeUndefined();
    expect(why({ name: 'vm' }, { name: 'other' })).toContain('other');
  });

  it('else of one of its bitmaps or images', () => {
    expect(why({}, {})).toContain('no disk of this VM');
    expect(why({}, {}, [source('z', { bitmaps: [bitmap(full.bitmap!.name)] })])).toBeUndefined();
    expect(why({}, {}, [source('z', { file: full.source.file })])).toBeUndefined();
  });

  it('a relative image path proves nothing', () => {
    const relative = { ...full, source: { ...full.source, file: 'disk.qcow2' } };
    const sources = [source('z', { file: 'disk.qcow2' })];
    expect(whyAnotherVm(nobody, nobody, catalog([point(0, [relative])]), sources)).toBeDefined();
  });
});

it('a run that was told less takes nothing away from what is remembered', () => {
  const recorded = { uuid: null, name: null, label: 'web' };
  expect(rememberedIdentity(recorded, { ...nobody, name: 'vm' })).toEqual({ uuid: null, name: 'vm', label: 'web' });
  expect(displayName({ uuid: 'u', name: 'vm', label: 'web' })).toBe('web');
});
