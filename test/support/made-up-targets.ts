import {
  copyFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { catalogText, type Catalog, readCatalogValue } from '../../src/core/catalog.js';
import type { Point, PointDisk } from '../../src/core/point.js';
import type { Verified } from '../../src/core/verified.js';
import { sealedAs } from '../../src/core/verified.js';
import { catalog, entry, MiB, point } from './builders.js';

/** A target that nobody backed up: catalog and files as after so many runs, without a byte in the files. */
export interface MadeUpTarget {
  readonly dir: string;
  readonly name: string;
  readonly points: number;
  /** ISO 8601. */
  readonly newest: string;
  readonly disks?: readonly string[];
  readonly hoursApart?: number;
  /** So many points of each chain. */
  readonly chainPoints?: number;
  /** Every so many-th point has been started; 0 is none. */
  readonly bootEvery?: number;
  readonly note?: string;
}

const HOUR_MS = 3_600_000;
const SIZE = 196_608;

/** What was written, for whoever compares. */
export function makeUpTarget(asked: MadeUpTarget): Catalog {
  const { dir, name, points: count, disks = ['vda', 'vdb'], chainPoints = 30, bootEvery = 14, note } = asked;
  const random = randomOf(name);
  mkdirSync(dir, { recursive: true });
  // All files are one, by links: of hundreds of thousands the file system would else have to keep as many.
  const one = join(dir, 'one-file');
  writeFileSync(one, '');
  truncateSync(one, SIZE);
  const { mtimeMs } = statSync(one);
  for (const disk of disks) mkdirSync(join(dir, disk), { recursive: true });
  const points: Point[] = [];
  let chain = '';
  for (let index = 0; index < count; index += 1) {
    const number = index % chainPoints;
    if (number === 0) chain = hex(random, 12);
    const level = number === 0 ? 'full' : number % 7 === 0 ? 'diff' : 'inc';
    const at = Date.parse(asked.newest) - (count - 1 - index) * (asked.hoursApart ?? 12) * HOUR_MS;
    const stamp = Math.round(at / 1000);
    const files = disks.map((disk, which): PointDisk => {
      const full = `FULL-${stamp - number * (asked.hoursApart ?? 12) * 3600}.qcow2`;
      const before = points.at(-1)?.disks[which]?.file ?? null;
      const allocated = Math.round((number === 0 ? 6000 : 4 + 90 * random()) * MiB * (1 + which));
      return entry(disk, `${level.toUpperCase()}-${stamp}.qcow2`, {
        ...{ level, size: SIZE, mtimeMs, allocated, changed: allocated },
        parent: number === 0 ? null : level === 'diff' ? full : before,
        ...(number > 0 && { source: { ...entry(disk, full).source, image: null } }),
        ...{ sha256: null, pieces: { bytes: 4 * MiB, sha256: 'a'.repeat(64), method: 'gmac' as const } },
        durationMs: Math.round(allocated / MiB / (0.2 + random())) + 20,
      });
    });
    for (const { disk, file } of files) linkSync(one, join(dir, disk, file));
    points.push(
      point(number, files, {
        ...{ id: hex(random, 12), chain, level, createdAt: new Date(at).toISOString() },
        consistency: random() < 0.85 ? 'filesystem' : random() < 0.7 ? 'crash' : 'offline',
        machine: { name, uuid: null, qemuVersion: '7.2.22', type: 'pc', memory: 1, cpus: 1 },
        ...(index % 60 === 59 && { pinned: true as const }),
        ...(index % 60 === 59 && note !== undefined && { note }),
      }),
    );
  }
  const made = inOrder(
    catalog(points, { schema: 2, vm: { uuid: null, name, label: null }, targetId: hex(random, 16) }),
  );
  writeFileSync(join(dir, 'catalog.json'), catalogText(made));
  writeFileSync(join(dir, 'verified.json'), JSON.stringify(verifiedOf(made, bootEvery)));
  return made;
}

/** With the fields in the order in which runs write them: lines of increments are then read without their schema, as theirs are. */
function inOrder(made: Catalog): Catalog {
  const reading = readCatalogValue(made);
  if (!reading.ok) throw new Error(reading.why);
  return reading.catalog;
}

/** Another VM with the same points: its files are those of the first, by links to the folders of its disks. */
export function makeUpSame(first: string, dir: string, name: string): void {
  mkdirSync(dir);
  const { vm, ...rest } = JSON.parse(readFileSync(join(first, 'catalog.json'), 'utf8')) as Catalog;
  writeFileSync(join(dir, 'catalog.json'), catalogText({ ...rest, vm: { ...vm, name } }));
  copyFileSync(join(first, 'verified.json'), join(dir, 'verified.json'));
  const disks = new Set(rest.points.flatMap((each) => each.disks.map(({ disk }) => disk)));
  for (const disk of disks) symlinkSync(join(first, disk), join(dir, disk));
}

/** The older half was read since. */
function verifiedOf({ targetId, points }: Catalog, bootEvery: number): Verified {
  const read = points.slice(0, Math.ceil(points.length / 2));
  const last = points.at(-1)?.createdAt ?? '';
  return {
    ...{ schema: 1, targetId },
    files: read.flatMap(({ disks }) =>
      disks.map((file) => ({
        ...{ disk: file.disk, file: file.file, of: sealedAs(file) },
        ...{ readAt: last, mtimeMs: file.mtimeMs, damage: null },
      })),
    ),
    boots: points
      .filter((_, index) => bootEvery > 0 && index % bootEvery === bootEvery - 1)
      .map(({ id, createdAt }) => ({ point: id, at: createdAt, by: 'agent', afterMs: 31_400, why: null })),
  };
}

/** The same numbers for the same name. */
function randomOf(name: string): () => number {
  let state = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) >>> 0, 7);
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function hex(random: () => number, length: number): string {
  return Array.from({ length }, () => Math.floor(random() * 16).toString(16)).join('');
}
