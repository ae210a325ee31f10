import { describe, expect, it } from 'vitest';
import { chooseDisks, withAskedFor } from '../../../src/core/choose-disks.js';
import type { KnownSource } from '../../../src/core/match-disks.js';
import { planBackup } from '../../../src/core/plan.js';
import { catalog, entry, planInput, point, request, source, vmState } from '../../support/builders.js';

const disk = (id: string, device: string, file: string): KnownSource => ({ id, source: source(device, { file }) });
const chosen = (
  known: readonly KnownSource[],
  more: Partial<ReturnType<typeof request>>,
  leftOut = vmState([]).leftOut,
) => chooseDisks({ request: request('auto', more), known, vm: { leftOut } }).chosen.map(({ id }) => id);

describe('a name that fits two disks is refused, and names both', () => {
  // Ids stay with the images, and these have changed places.
  const swapped = [
    disk('hd0', 'hd1', '/x/a.qcow2'),
    disk('hd1', 'hd0', '/x/b.qcow2'),
    disk('hd2', 'hd2', '/y/b.qcow2'),
  ];

  it.each(['include', 'exclude'] as const)('by --%s', (option) => {
    expect(() => chosen(swapped, { [option]: ['hd0'] })).toThrow(
      expect.objectContaining({
        code: 'usage',
        message: `--${option} hd0 fits 2 disks: hd0 (hd1, /x/a.qcow2) and hd1 (hd0, /x/b.qcow2)`,
        hint: 'Name the one that is meant: /x/a.qcow2 or /x/b.qcow2',
      }) as Error,
    );
    expect(() => chosen(swapped, { [option]: ['b.qcow2'] })).toThrow(/fits 2 disks: hd1 .* and hd2 /);
  });

  it('and what the hint names fits one', () => {
    expect(chosen(swapped, { exclude: ['/x/a.qcow2'] })).toEqual(['hd1', 'hd2']);
    expect(chosen(swapped, { include: ['/x/b.qcow2', 'hd2'] })).toEqual(['hd1', 'hd2']);
  });
});

describe('a disk that a rule leaves out', () => {
  const taken = source('vdb', { cannotTrack: 'shareable: a cost' });
  const reason = 'other VMs may write to it';
  const out = { name: 'vdb', reason, kind: 'rule' } as const;
  const vm = (alone: boolean) => vmState([source('vda')], { leftOut: [{ ...out, offer: { source: taken, alone } }] });

  it('is taken by --include, by whatever it is called', () => {
    for (const name of ['vdb', 'vdb.qcow2', '/images/vdb.qcow2']) {
      const { disks, leftOut } = withAskedFor(vm(false), { include: ['vda', name], exclude: [] });
      expect(disks.map(({ device }) => device)).toEqual(['vda', 'vdb']);
      expect(leftOut).toEqual([]);
    }
    expect(withAskedFor(vm(false), { include: [], exclude: [] }).disks).toHaveLength(1);
  });

  it('alone, where it is only taken alone', () => {
    expect(withAskedFor(vm(true), { include: ['vdb'], exclude: [] }).disks).toHaveLength(2);
    expect(() => withAskedFor(vm(true), { include: ['vda', 'vdb'], exclude: [] })).toThrow('a cost');
  });

  it('is refused with what to do instead, where it cannot be taken; excluding it is no fault', () => {
    const leftOut = [{ ...out, instead: 'Back it up in the guest.' }];
    const known = [disk('vda', 'vda', '/a')];
    expect(() => chosen(known, { include: ['vdb'] }, leftOut)).toThrow(
      expect.objectContaining({
        code: 'usage',
        message: `--include vdb: ${reason}`,
        hint: 'Back it up in the guest.',
      }) as Error,
    );
    expect(chosen(known, { exclude: ['vdb'] }, leftOut)).toEqual(['vda']);
  });

  it('is a wish, and no lack, where it is excluded', () => {
    const known = [disk('vda', 'vda', '/a')];
    const { leftOut } = chooseDisks({
      request: request('auto', { exclude: ['vdb'] }),
      known,
      vm: { leftOut: [out, { ...out, name: 'vdc' }] },
    });
    expect(leftOut.map(({ name, kind }) => `${name} ${kind}`)).toEqual(['vdb request', 'vdc rule']);
  });
});

describe('what is said of a disk', () => {
  const raw = source('a', { format: 'raw' });
  const of = { ...entry('a', '').source, format: 'raw' };
  const recorded = (lacks?: readonly string[]) =>
    entryPoint(lacks?.map((name) => ({ disk: name, reason: 'a rule', kind: 'rule' as const })));
  const entryPoint = (lacks?: { disk: string; reason: string; kind: 'rule' }[]) =>
    catalog([
      point(
        0,
        [entry('a', 'FULL-1.qcow2', { bitmap: { name: 'b0', persistent: false }, source: of })],
        lacks ? { lacks } : {},
      ),
    ]);
  const bitmaps = [
    {
      ...raw,
      bitmaps: [
        {
          name: 'b0',
          granularity: 65536,
          count: 0,
          recording: true,
          persistent: false,
          busy: false,
          inconsistent: false,
        },
      ],
    },
  ];
  const said = (known: Parameters<typeof planInput>[2], out: readonly string[], level: 'auto' | 'full' = 'auto') => {
    const leftOut = out.map((name) => ({ name, reason: 'a rule', kind: 'rule' as const }));
    const { remarks } = planBackup(planInput(level, bitmaps, known, { vm: vmState(bitmaps, { leftOut }) }));
    return remarks.map(({ kind, said: before }) => `${kind}${before ? ' again' : ''}`);
  };

  it('is new at the first point, and an old story after it', () => {
    expect(said(undefined, ['z'])).toEqual(['lacks', 'standing']);
    expect(said(recorded(['z']), ['z'])).toEqual(['lacks again', 'standing again']);
  });

  it('is new where the set of what is left out changes, and to catalogs that did not record it', () => {
    expect(said(recorded(['z']), ['z', 'y'])).toEqual(['lacks', 'lacks', 'standing again']);
    expect(said(recorded(['y', 'z']), ['z', 'y'])).toEqual(['lacks again', 'lacks again', 'standing again']);
    expect(said(recorded(), ['z'])).toEqual(['lacks', 'standing again']);
  });

  it('is new where a chain begins, unless there is nothing that a chain could go on with', () => {
    expect(said(recorded(['z']), ['z'], 'full')).toEqual(['lacks', 'standing']);
    const untracked = source('a', { compat: '0.10' });
    const lacks = [{ disk: 'z', reason: 'a rule', kind: 'rule' as const }];
    const before = catalog([point(0, [entry('a', 'FULL-1.qcow2', { bitmap: null })], { lacks })]);
    const leftOut = [{ name: 'z', reason: 'a rule', kind: 'rule' as const }];
    const plan = planBackup(planInput('auto', [untracked], before, { vm: vmState([untracked], { leftOut }) }));
    expect(plan.chain).not.toBe('c1');
    expect(plan.warnings).toEqual([]);
  });
});
