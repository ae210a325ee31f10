import {
  copyFile,
  chmod,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import type { Catalog } from '../../src/core/catalog.js';
import { requireCatalog, writeCatalog } from '../../src/repository/catalog-file.js';
import { writeJournal } from '../../src/repository/journal-file.js';
import { journal } from './builders.js';
import type { Lab } from './chains.js';
import { run } from './lab/programs.js';

/** What may become of a target: each kind of damage done to real chains, and what `verify` has to say of it. */
export interface Damage {
  readonly harm: (lab: Lab) => Promise<unknown>;
  /** `<level> <subject> <code> <file>` of what is found among other things. */
  readonly found: string;
  /** What `verify --read-data` ends with. */
  readonly exit: number;
  /** `--repair` makes it whole again. */
  readonly mended?: true;
  /** Seen by a user who is not root. */
  readonly asNobody?: true;
}

/**
 * Of disk `vda` there are an older chain and FULL <- INC <- INC, of which the first INC has a list of pieces; of `vdb` FULL <-
 * INC; and the newest point has a definition.
 */
export const OLD = 'FULL-90.qcow2';
export const FULL = 'FULL-100.qcow2';
export const INC = 'INC-101.qcow2';
export const LAST = 'INC-102.qcow2';
export const XML = 'DOMAIN-102.xml';

const at =
  (disk: string, file: string) =>
  (lab: Lab): string =>
    join(lab.folder(disk), file);
const [full, inc, last, old] = [FULL, INC, LAST, OLD].map((file) => at('vda', file)) as [Place, Place, Place, Place];
const xml = at('definition', XML);
const catalogOf = (lab: Lab): string => join(lab.target, 'catalog.json');
type Place = (lab: Lab) => string;

/** The file with its modification time of before, as storage damages it. */
async function unseen(path: string, step: () => Promise<unknown>): Promise<void> {
  const times = `${path}.times`;
  await run('cp', ['--attributes-only', '--preserve=timestamps', path, times]);
  await step();
  await run('touch', ['--reference', times, path]);
  await rm(times);
}

/** One bit of a byte is another, and nothing else tells. */
export async function flip(path: string, offset: number): Promise<void> {
  await unseen(path, async () => {
    const handle = await open(path, 'r+');
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, offset);
    byte[0] = (byte[0] ?? 0) ^ 1;
    await handle.write(byte, 0, 1, offset);
    await handle.close();
  });
}

/** A number of the header, or of a table; 8 bytes, big endian. */
async function numberAt(path: string, offset: number): Promise<number> {
  return Number((await readFile(path)).readBigUInt64BE(offset) & 0x00ffffffffffffffn);
}

/** Where data of the disk is in the file. */
async function dataOf(path: string): Promise<number> {
  const { stdout } = await run('qemu-img', ['map', '--output=json', '-U', path]);
  const extents = JSON.parse(stdout) as { data: boolean; depth: number; offset?: number }[];
  const found = extents.find(({ data, depth, offset }) => data && depth === 0 && offset !== undefined);
  if (found?.offset === undefined) throw new Error(`${path} has no data`);
  return found.offset;
}

const [L1_AT, REFCOUNTS_AT] = [40, 48];

async function recorded(lab: Lab, change: (catalog: Catalog) => Catalog): Promise<void> {
  await writeCatalog(lab.target, change(await requireCatalog(lab.target)));
}

/** A file in the place of another, with its time. */
async function insteadOf(lab: Lab, place: Place, from: string): Promise<void> {
  const to = place(lab);
  await unseen(to, async () => {
    await rm(to);
    await copyFile(from, to);
  });
}

async function relinked(place: Place, lab: Lab, ...link: readonly string[]): Promise<void> {
  await unseen(place(lab), () => run('qemu-img', ['rebase', '-u', '-f', 'qcow2', ...link, place(lab)]));
}

export const DAMAGES: Readonly<Record<string, Damage>> = {
  'a FULL that is gone': { harm: (lab) => rm(full(lab)), found: `error vda missing ${FULL}`, exit: 4 },
  'an INC that is gone': { harm: (lab) => rm(inc(lab)), found: `error vda missing ${INC}`, exit: 4 },
  'a newest INC that is gone': { harm: (lab) => rm(last(lab)), found: `error vda missing ${LAST}`, exit: 4 },
  'a FULL that was cut': {
    harm: (lab) => unseen(full(lab), () => truncate(full(lab), 70_000)),
    found: `error vda other-size ${FULL}`,
    exit: 4,
  },
  'an INC that is empty': {
    harm: (lab) => unseen(inc(lab), () => truncate(inc(lab), 0)),
    found: `error vda other-size ${INC}`,
    exit: 4,
  },
  'a file with more at its end': {
    harm: (lab) => unseen(last(lab), () => writeFile(last(lab), 'more', { flag: 'a' })),
    found: `error vda other-size ${LAST}`,
    exit: 4,
  },
  'a bit of data in a FULL': {
    harm: async (lab) => flip(full(lab), await dataOf(full(lab))),
    found: `error vda damaged ${FULL}`,
    exit: 4,
  },
  'a bit of data in an INC': {
    harm: async (lab) => flip(inc(lab), await dataOf(inc(lab))),
    found: `error vda damaged ${INC}`,
    exit: 4,
  },
  'a bit of data, and the time tells': {
    harm: async (lab) => {
      await flip(last(lab), await dataOf(last(lab)));
      await run('touch', [last(lab)]);
    },
    found: `error vda damaged ${LAST}`,
    exit: 4,
  },
  'a file of zeros': {
    harm: async (lab) => {
      const { size } = await stat(last(lab));
      await unseen(last(lab), () => writeFile(last(lab), Buffer.alloc(size)));
    },
    found: `error vda no-image ${LAST}`,
    exit: 4,
  },
  'zeros in the place of data': {
    harm: async (lab) => {
      const offset = await dataOf(inc(lab));
      await unseen(inc(lab), () => run('fallocate', ['-p', '-o', String(offset), '-l', '65536', inc(lab)]));
    },
    found: `error vda damaged ${INC}`,
    exit: 4,
  },
  'a bit of the L1 table': {
    harm: async (lab) => flip(full(lab), (await numberAt(full(lab), L1_AT)) + 5),
    found: `error vda corrupt ${FULL}`,
    exit: 4,
  },
  'a bit of an L2 table': {
    harm: async (lab) => flip(full(lab), (await numberAt(full(lab), await numberAt(full(lab), L1_AT))) + 5),
    found: `error vda corrupt ${FULL}`,
    exit: 4,
  },
  'a bit of the refcount table': {
    harm: async (lab) => flip(inc(lab), (await numberAt(inc(lab), REFCOUNTS_AT)) + 5),
    found: `error vda corrupt ${INC}`,
    exit: 4,
  },
  'a bit of a refcount': {
    harm: async (lab) => flip(inc(lab), (await numberAt(inc(lab), await numberAt(inc(lab), REFCOUNTS_AT))) + 1),
    found: `error vda corrupt ${INC}`,
    exit: 4,
  },
  'a bit of the magic number': { harm: (lab) => flip(last(lab), 0), found: `error vda no-image ${LAST}`, exit: 4 },
  'a bit of the disk size': { harm: (lab) => flip(inc(lab), 28), found: `error vda other-disk-size ${INC}`, exit: 4 },
  'two neighbours swapped': {
    harm: async (lab) => {
      await rename(inc(lab), `${inc(lab)}.x`);
      await rename(last(lab), inc(lab));
      await rename(`${inc(lab)}.x`, last(lab));
    },
    found: `error vda other-size ${INC}`,
    exit: 4,
  },
  'a FULL of another chain, of the same size': {
    harm: (lab) => insteadOf(lab, full, old(lab)),
    found: `error vda damaged ${FULL}`,
    exit: 4,
  },
  'a file that was renamed': {
    harm: (lab) => rename(inc(lab), join(lab.folder('vda'), 'INC-201.qcow2')),
    found: `error vda missing ${INC}`,
    exit: 4,
  },
  'a file of another disk, of the same size': {
    harm: (lab) => insteadOf(lab, full, join(lab.folder('vdb'), FULL)),
    found: `error vda damaged ${FULL}`,
    exit: 4,
  },
  'a catalog that is no JSON': {
    harm: (lab) => writeFile(catalogOf(lab), '{"schema":1,'),
    found: 'error target bad-catalog catalog.json',
    exit: 4,
    mended: true,
  },
  'a catalog that was cut': {
    harm: (lab) => truncate(catalogOf(lab), 700),
    found: 'error target bad-catalog catalog.json',
    exit: 4,
    mended: true,
  },
  'no catalog': {
    harm: (lab) => rm(catalogOf(lab)),
    found: 'error target no-catalog catalog.json',
    exit: 4,
    mended: true,
  },
  'an old catalog': {
    harm: async (lab) => {
      const { points, ...rest } = await requireCatalog(lab.target);
      await writeFile(catalogOf(lab), JSON.stringify({ ...rest, points: points.slice(0, 3) }));
    },
    found: 'error target old-catalog catalog.json',
    exit: 4,
    mended: true,
  },
  'a catalog of another target': {
    harm: async (lab) => {
      const { points, ...rest } = await requireCatalog(lab.target);
      const others = points.map((each) => ({ ...each, disks: each.disks.map((disk) => ({ ...disk, size: 1 })) }));
      await writeFile(catalogOf(lab), JSON.stringify({ ...rest, targetId: 'f'.repeat(16), points: others }));
    },
    found: 'error target other-catalog catalog.json',
    exit: 4,
    mended: true,
  },
  'a link from a FULL': {
    harm: (lab) => relinked(full, lab, '-F', 'qcow2', '-b', OLD),
    found: `error vda other-link ${FULL}`,
    exit: 4,
    mended: true,
  },
  'a catalog that is a link': {
    harm: async (lab) => {
      await rename(catalogOf(lab), join(lab.root, 'elsewhere.json'));
      await symlink(join(lab.root, 'elsewhere.json'), catalogOf(lab));
    },
    found: 'error target bad-catalog catalog.json',
    exit: 4,
    mended: true,
  },
  'a catalog that this user may not read': {
    harm: (lab) => chmod(catalogOf(lab), 0),
    found: 'error target unreadable catalog.json',
    exit: 4,
    asNobody: true,
  },
  'a catalog with a gap': {
    harm: (lab) =>
      recorded(lab, (catalog) => ({
        ...catalog,
        points: catalog.points.filter(({ disks }) => !disks.some(({ file }) => file === INC)),
      })),
    found: `error vda gap ${LAST}`,
    exit: 4,
  },
  'a link to another file of the chain': {
    harm: (lab) => relinked(last, lab, '-F', 'qcow2', '-b', FULL),
    found: `error vda other-link ${LAST}`,
    exit: 4,
    mended: true,
  },
  'a link to /etc/passwd': {
    harm: (lab) => relinked(last, lab, '-F', 'raw', '-b', '/etc/passwd'),
    found: `error vda other-link ${LAST}`,
    exit: 4,
    mended: true,
  },
  'no link': {
    harm: (lab) => relinked(inc, lab, '-b', ''),
    found: `error vda other-link ${INC}`,
    exit: 4,
    mended: true,
  },
  'an external data file': {
    harm: async (lab) => {
      const header = await open(full(lab), 'r+');
      // Incompatible feature bit 2, of 8 bytes from 72 on.
      await unseen(full(lab), () => header.write(Buffer.from([4]), 0, 1, 79));
      await header.close();
    },
    found: `error vda other-link ${FULL}`,
    exit: 4,
  },
  'a file that this user may not read': {
    harm: (lab) => chmod(inc(lab), 0),
    found: `error vda unreadable ${INC}`,
    exit: 4,
    asNobody: true,
  },
  'a folder that this user may not read': {
    harm: (lab) => chmod(lab.folder('vdb'), 0),
    found: `error vdb unreadable ${FULL}`,
    exit: 4,
    asNobody: true,
  },
  'a FIFO in the place of a file': {
    harm: async (lab) => {
      await rm(inc(lab));
      await run('mkfifo', [inc(lab)]);
    },
    found: `error vda not-a-file ${INC}`,
    exit: 4,
  },
  'a folder in the place of a file': {
    harm: async (lab) => {
      await rm(inc(lab));
      await mkdir(inc(lab));
    },
    found: `error vda not-a-file ${INC}`,
    exit: 4,
  },
  'a link in the place of a file': {
    harm: async (lab) => {
      await rename(inc(lab), join(lab.root, 'elsewhere'));
      await symlink(join(lab.root, 'elsewhere'), inc(lab));
    },
    found: `error vda not-a-file ${INC}`,
    exit: 4,
  },
  'the folder of a disk that is gone': {
    harm: (lab) => rm(lab.folder('vdb'), { recursive: true }),
    found: 'error vdb no-folder ',
    exit: 4,
  },
  'the folder of a disk that is a link': {
    harm: async (lab) => {
      await rename(lab.folder('vdb'), join(lab.root, 'elsewhere'));
      await symlink(join(lab.root, 'elsewhere'), lab.folder('vdb'));
    },
    found: 'error vdb no-folder ',
    exit: 4,
  },
  'a definition file that was altered': {
    harm: (lab) => flip(xml(lab), 3),
    found: `error definition altered ${XML}`,
    exit: 4,
  },
  'a definition file that is gone': { harm: (lab) => rm(xml(lab)), found: `error definition missing ${XML}`, exit: 4 },
  'a list of pieces that is gone': {
    harm: (lab) => rm(`${inc(lab)}.pieces`),
    found: `warning vda no-piece-list ${INC}.pieces`,
    exit: 0,
    mended: true,
  },
  'a list of pieces that was altered': {
    harm: (lab) => flip(`${inc(lab)}.pieces`, 5),
    found: `warning vda no-piece-list ${INC}.pieces`,
    exit: 0,
    mended: true,
  },
  'a backup file that nobody knows': {
    harm: (lab) => copyFile(last(lab), join(lab.folder('vda'), 'INC-103.qcow2')),
    found: 'warning vda stray INC-103.qcow2',
    exit: 0,
    mended: true,
  },
  'a partial file that nobody knows': {
    harm: (lab) => writeFile(join(lab.folder('vda'), 'INC-103.qcow2.partial'), 'half'),
    found: 'warning vda partial INC-103.qcow2.partial',
    exit: 0,
    mended: true,
  },
  'what a dead run has left': {
    harm: async (lab) => {
      const disk = { disk: 'vda', bitmap: null, job: 'j', file: 'INC-103.qcow2' };
      await writeJournal(lab.target, journal('0123456789ab', [disk], { madeFolders: [] }));
      await writeFile(join(lab.folder('vda'), 'INC-103.qcow2.partial'), 'half');
    },
    found: 'info vda left-over INC-103.qcow2.partial',
    exit: 0,
    mended: true,
  },
  'a file of somebody else': {
    harm: (lab) => writeFile(join(lab.folder('vda'), 'notes.txt'), 'mine'),
    found: 'info vda foreign notes.txt',
    exit: 0,
  },
};
