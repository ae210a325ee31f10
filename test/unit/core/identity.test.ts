import { describe, expect, it } from 'vitest';
import { displayName, rememberedIdentity, wayOn, whyAnotherVm } from '../../../src/core/identity.js';
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

  it('else of its name together with a bitmap or an image, which a clone does not have', () => {
    expect(why({ name: 'vm' }, { name: 'vm' })).toMatch(/has the name of VM vm.*nothing else of it/);
    expect(why({ name: 'vm' }, { name: 'vm', uuid: 'u2' })).toContain('nothing else of it');
    expect(why({ name: 'vm', uuid: 'u1' }, { name: 'vm' })).toContain('nothing else of it');
    expect(why({ name: 'vm' }, { name: 'vm' }, [source('z', { file: full.source.file })])).toBeUndefined();
    expect(why({ name: 'vm' }, { name: 'vm' }, [source('z', { backing: ['/s1', full.source.file] })])).toBeUndefined();
    expect(
      why({ name: 'vm' }, { name: 'vm' }, [source('z', { bitmaps: [bitmap(full.bitmap!.name)] })]),
    ).toBeUndefined();
    expect(whyAnotherVm({ ...nobody, name: 'vm' }, { ...nobody, name: 'vm' }, catalog([]), [])).toBeUndefined();
  });

  it('else of the name that a person gives by --vm-name', () => {
    expect(why({ name: 'vm' }, { name: 'vm', label: 'vm' })).toBeUndefined();
    expect(why({ name: 'vm' }, { name: 'vm', label: 'clone' })).toContain('this is VM clone');
    expect(why({ name: 'vm' }, { label: 'vm' })).toBeUndefined();
    expect(why({ name: 'vm' }, { name: 'other' })).toContain('other');
  });

  it('else of one of its bitmaps or images', () => {
    expect(why({}, {})).toContain('no disk of this VM');
    expect(why({}, {}, [source('z', { bitmaps: [bitmap(full.bitmap!.name)] })])).toBeUndefined();
    expect(why({}, {}, [source('z', { file: full.source.file })])).toBeUndefined();
  });

  it('a relative image path proves nothing by itself', () => {
    const relative = { ...full, source: { ...full.source, file: 'disk.qcow2' } };
    const sources = [source('z', { file: 'disk.qcow2' })];
    const of = catalog([point(0, [relative])]);
    expect(whyAnotherVm(nobody, nobody, of, sources)).toBeDefined();
    // Beside the name it does.
    expect(whyAnotherVm({ ...nobody, name: 'vm' }, { ...nobody, name: 'vm' }, of, sources)).toBeUndefined();
  });
});

it('a run that was told less takes nothing away from what is remembered', () => {
  const recorded = { uuid: null, name: null, label: 'web' };
  expect(rememberedIdentity(recorded, { ...nobody, name: 'vm' })).toEqual({ uuid: null, name: 'vm', label: 'web' });
  expect(displayName({ uuid: 'u', name: 'vm', label: 'web' })).toBe('web');
});

it('the way on that a refusal names is one that leads on', () => {
  const named = { ...nobody, name: "it's" };
  expect(wayOn(named, named)).toContain(`--vm-name 'it'\\''s'`);
  expect(wayOn({ ...named, label: 'web' }, named)).toContain('--vm-name web');
  expect(wayOn(nobody, named)).not.toContain('--vm-name');
  expect(wayOn({ ...named, uuid: 'u1' }, { ...named, uuid: 'u2' })).not.toContain('--vm-name');
});
