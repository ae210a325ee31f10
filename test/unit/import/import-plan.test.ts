import { describe, expect, it } from 'vitest';
import { domainName } from '../../../src/core/domain-name.js';
import { type LoggedRun, parseStreamName, planImport, type StreamFile } from '../../../src/import/import-plan.js';
import type { StreamMeta } from '../../../src/import/stream-meta.js';
import { MiB } from '../../support/builders.js';

const C = (number: number): string => `virtnbdbackup.${number}`;

/** A stream as its name says, of the day that its number tells. */
function file(name: string, more: Partial<StreamMeta> = {}, day = 1): StreamFile {
  const parsed = parseStreamName(name)!;
  const number = Number(parsed.ident?.split('.')[1] ?? 0);
  const incremental = parsed.level === 'inc' || parsed.level === 'diff';
  const date = more.date ?? `2024-11-${String(day + number).padStart(2, '0')}T10:00:00.1`;
  const meta: StreamMeta = {
    disk: parsed.disk,
    virtualSize: 16 * MiB,
    dataSize: 0,
    format: 'qcow2',
    checkpoint: C(number),
    parent: incremental ? C(number - 1) : null,
    incremental,
    compressed: false,
    ...more,
    date,
  };
  return { ...parsed, size: 1000, meta, date };
}

const raw = (name: string, size = 16 * MiB): StreamFile => ({
  ...parseStreamName(name)!,
  size,
  meta: null,
  date: '2024-11-01T09:00:00',
});

const FULL = file('vda.full.data');
const incs = (...numbers: number[]): StreamFile[] => numbers.map((number) => file(`vda.inc.${C(number)}.data`));
const diff = (disk: string, seconds: number, parent: number, date: string): StreamFile =>
  file(`${disk}.diff.${seconds}.data`, { checkpoint: C(parent + 1), parent: C(parent), date });

function outline(files: readonly StreamFile[], runs: readonly LoggedRun[] = []): string[] {
  return planImport(files, runs).points.map(
    ({ level, disks }) =>
      `${level} ${disks.map(({ source, parent }) => `${source.name}<${parent?.source.name ?? ''}`).join(' ')}`,
  );
}

describe('the names of streams', () => {
  it.each([
    ['vda.full.data', 'full', null],
    ['sda.copy.data', 'copy', null],
    ['vda.inc.virtnbdbackup.12.data', 'inc', 'virtnbdbackup.12'],
    ['hdc.diff.1700000000.data', 'diff', '1700000000'],
  ])('%s', (name, level, ident) => {
    expect(parseStreamName(name)).toMatchObject({ level, ident, disk: name.slice(0, 3) });
  });

  it.each(['vda.full.data.partial', 'vda.data', '.full.data', 'vda.full.data.chksum', 'a b.full.data', 'vda.inc.data'])(
    'are not like %s',
    (name) => {
      expect(parseStreamName(name)).toBeUndefined();
    },
  );
});

describe('an import', () => {
  it('follows what streams say of their parents, not names or order', () => {
    const [one, two, three] = incs(1, 2, 3) as [StreamFile, StreamFile, StreamFile];
    expect(outline([three, one, FULL, two])).toEqual([
      'full vda.full.data<',
      `inc ${one.name}<vda.full.data`,
      `inc ${two.name}<${one.name}`,
      `inc ${three.name}<${two.name}`,
    ]);
  });

  it('goes past ten', () => {
    const points = outline([FULL, ...incs(...Array.from({ length: 12 }, (_, index) => index + 1))]);
    expect(points).toHaveLength(13);
    expect(points.at(-1)).toContain('virtnbdbackup.12.data<vda.inc.virtnbdbackup.11.data');
  });

  it('makes one point of a checkpoint over all disks', () => {
    const vdb = [file('vdb.full.data'), file(`vdb.inc.${C(1)}.data`)];
    expect(outline([FULL, ...incs(1), ...vdb])).toEqual([
      'full vda.full.data< vdb.full.data<',
      `inc vda.inc.${C(1)}.data<vda.full.data vdb.inc.${C(1)}.data<vdb.full.data`,
    ]);
  });

  it('says which disk a point is without', () => {
    const plan = planImport([FULL, file('vdb.full.data'), ...incs(1)], []);
    expect(plan.warnings).toEqual([
      { code: 'point-lacks-disk', text: `vdb has no file of ${C(1)}: that point is without it` },
    ]);
  });

  it('names the file that is missing', () => {
    expect(() => outline([FULL, ...incs(1, 3)])).toThrow(
      `vda.inc.${C(2)}.data is missing: vda.inc.${C(3)}.data builds on it`,
    );
    expect(() => outline(incs(1))).toThrow(`vda.full.data is missing: vda.inc.${C(1)}.data builds on it`);
    const vdb = [file('vdb.full.data'), file(`vdb.inc.${C(2)}.data`)];
    expect(() => outline([FULL, ...incs(1, 2), ...vdb])).toThrow(`vdb.inc.${C(1)}.data is missing`);
    expect(() => outline([FULL, file(`vdb.inc.${C(1)}.data`)])).toThrow('vdb.full.data is missing');
  });

  it('puts diffs of all disks in turn into one point, and others into their own', () => {
    const disks = [FULL, file('vdb.full.data')];
    const diffs = [diff('vda', 100, 0, '2024-11-01T12:00:00'), diff('vdb', 101, 0, '2024-11-01T12:00:01')];
    const whole = outline([...disks, ...diffs, ...incs(1), file(`vdb.inc.${C(1)}.data`)]);
    expect(whole.map((each) => each.split(' ')[0])).toEqual(['full', 'diff', 'inc']);
    expect(whole[1]).toBe('diff vda.diff.100.data<vda.full.data vdb.diff.101.data<vdb.full.data');
    const lone = diff('vda', 200, 0, '2024-11-01T13:00:00');
    expect(outline([...disks, ...diffs, lone]).map((each) => each.split(' ').length - 1)).toEqual([2, 2, 1]);
  });

  it('takes an increment of a VM that was off for a diff, unless it has replaced what it builds on', () => {
    const off = file(`vda.inc.${C(0)}.data`, { parent: C(0) }, 2);
    expect(outline([FULL, off, ...incs(1)]).map((each) => each.split(' ')[0])).toEqual(['full', 'diff', 'inc']);
    const replaced = file(`vda.inc.${C(1)}.data`, { parent: C(1) });
    expect(() => outline([FULL, replaced])).toThrow('has replaced the file that it builds on');
  });

  it('makes a copy of copies, and of a raw image one of its own, in the order of time', () => {
    const copies = [file('vda.copy.data', {}, 3), file('vdb.copy.data', {}, 3)];
    expect(outline([FULL, ...copies, raw('vdc.copy.data')])).toEqual([
      'copy vdc.copy.data<',
      'full vda.full.data<',
      'copy vda.copy.data< vdb.copy.data<',
    ]);
    expect(outline([raw('vdc.copy.data')])).toHaveLength(1);
  });

  it('lets a disk grow and refuses that it shrinks', () => {
    const grown = file(`vda.inc.${C(1)}.data`, { virtualSize: 32 * MiB });
    expect(planImport([FULL, grown], []).points[1]?.disks[0]?.virtualSize).toBe(32 * MiB);
    const shrunk = file(`vda.inc.${C(1)}.data`, { virtualSize: 8 * MiB });
    expect(() => outline([FULL, shrunk])).toThrow('is of a disk of 8.0 MiB, and vda.full.data of 16.0 MiB');
  });

  it.each<[string, StreamFile[], string]>([
    ['nothing', [], 'there is no backup'],
    ['another disk in the name', [file('vda.full.data', { disk: 'vdb' })], 'says that it is of vdb'],
    ['an increment named full', [file('vda.full.data', { incremental: true })], 'says that it is an increment'],
    ['a full named increment', [FULL, file(`vda.inc.${C(1)}.data`, { incremental: false })], 'a whole backup'],
    ['another checkpoint in the name', [FULL, file(`vda.inc.${C(1)}.data`, { checkpoint: C(9) })], `it is of ${C(9)}`],
    ['an increment of nothing', [FULL, file(`vda.inc.${C(1)}.data`, { parent: null })], 'what it builds on'],
    ['fulls of two runs', [FULL, file('vdb.full.data', { checkpoint: 'other' })], 'of different runs'],
    ['an older increment', [FULL, file(`vda.inc.${C(1)}.data`, { date: '2024-10-01T10:00:00' })], 'is older than'],
    ['a raw full', [raw('vda.full.data')], 'does not begin as a stream'],
    ['half a sector', [raw('vda.copy.data', 700)], 'neither a stream nor a raw image'],
    ['two branches', [FULL, ...incs(1), file(`vda.inc.${C(2)}.data`, { parent: C(0) })], 'both build on'],
    [
      'a circle',
      [FULL, ...incs(1), file('vda.inc.virtnbdbackup.0.data', { parent: C(1), date: '2024-11-02T10:00:00.1' })],
      'circle',
    ],
  ])('is refused for %s', (_, files, why) => {
    expect(() => outline(files)).toThrow(why);
  });
});

describe('an increment is suspect', () => {
  const late = [
    { ...file('vda.full.data', { date: '2025-06-01T10:00:00' }) },
    file(`vda.inc.${C(1)}.data`, { date: '2025-06-02T10:00:00' }),
    diff('vda', 100, 1, '2025-06-03T10:00:00'),
  ];
  const suspects = (files: readonly StreamFile[], runs: readonly LoggedRun[] = []): (string | null)[] =>
    planImport(files, runs).points.map(({ disks }) => disks[0]!.suspect);
  const run = (version: string, keptZeros = false): LoggedRun => ({ checkpoint: C(1), version, keptZeros });

  it('when it is of a time that has releases which lose zeros, and a full never is', () => {
    expect(suspects(late)).toEqual([
      null,
      expect.stringContaining('of 2025-06-02'),
      expect.stringContaining('2025-06-03'),
    ]);
    expect(suspects([FULL, ...incs(1)])).toEqual([null, null]);
  });

  it.each([
    [run('2.20'), false],
    [run('1.9.45'), false],
    [run('2.3'), false],
    [run('2.21'), true],
    [run('2.100'), true],
    [run('3.0'), true],
    [run('2.30', true), false],
  ])('or not, as its log says: %j', (logged, expected) => {
    expect(suspects(late.slice(0, 2), [logged])[1] !== null).toBe(expected);
  });
});

describe('the name of a VM', () => {
  const UUID = 'c7a5fdbd-cdaf-9455-926a-d65c16db1809';

  it.each([
    [`<domain type='kvm' id='1'>\n  <name>vm &amp; co</name>\n  <uuid>${UUID}</uuid>\n</domain>`, 'vm & co'],
    [
      `<?xml version="1.0"?>\n<!-- WARNING: generated -->\n<domain><name>a</name><uuid>${UUID.toUpperCase()}</uuid>`,
      'a',
    ],
  ])('is read from %j', (xml, name) => {
    expect(domainName(xml)).toEqual({ name, uuid: UUID });
  });

  it.each([
    '',
    `<domain><metadata><name>x</name><uuid>${UUID}</uuid></metadata></domain>`,
    `<!-- <domain><name>x</name><uuid>${UUID}</uuid> -->`,
    '<domain><name>x</name><uuid>no</uuid></domain>',
    `<domain><name></name><uuid>${UUID}</uuid>`,
    `${'<!--'.repeat(5000)}`,
  ])('is not read from %j', (xml) => {
    expect(domainName(xml)).toBeUndefined();
  });
});
