import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type StatusLevel, worstLevel } from '../../core/status.js';
import { QmpBackupError } from '../../errors.js';
import { inLanes } from '../../flow/lanes.js';
import { Unwind, unwinding } from '../../flow/unwind.js';
import { replaceFile, replaceUnflushed } from '../../host/durable.js';
import { fileError } from '../../host/file-errors.js';
import { lockReport } from '../../repository/lock.js';
import { makeFolder } from '../../repository/make-folder.js';
import type { VmSource } from '../status.js';
import { type Html, html } from './html.js';
import { type MadePage, readViews, type UnplacedRow } from './made-page.js';
import { INDEX, refuseOtherFile, refuseOtherFolder, removeOtherPages } from './output-folder.js';
import { overview, type OverviewRow, type ReportHead } from './overview.js';
import { page } from './page.js';
import { pageName } from './page-name.js';
import { LANES, withPageThreads } from './page-threads.js';
import { vmArticle } from './vm-page.js';

/** A report: pages of a folder, or one page with all. */
export interface ReportRequest {
  /** Absolute; what ends with `.html` is one page. */
  readonly output: string;
  readonly sources: readonly VmSource[];
  readonly head: ReportHead;
  readonly signal: AbortSignal;
}

export interface ReportResult {
  readonly level: StatusLevel;
  readonly vms: number;
  /** Absolute paths of what was written, the overview first. */
  readonly pages: readonly string[];
  /** Of pages of VMs that are no longer there. */
  readonly removed: readonly string[];
}

/** One page takes so many VMs at most: more would be no page that a browser shows. */
const MOST_IN_A_PAGE = 25;

/** Those of others may be read by whoever reads the folder; who may do that is up to whose folder it is. */
const [FILE_MODE, FOLDER_MODE] = [0o644, 0o755];

export function isOnePage(output: string): boolean {
  return /\.html?$/i.test(output);
}

/**
 * Reads VM after VM, and writes the page of each, then the overview: of many, only a few are held in memory. Each file is replaced as a
 * whole.
 *
 * @throws QmpBackupError `unsafe` where something else is in its place, `usage` for a page with too many VMs, `locked` where another
 *   report is being written there
 */
export async function writeReport(request: ReportRequest): Promise<ReportResult> {
  const { output, sources } = request;
  if (!isOnePage(output)) return unwinding((unwind) => writeFolder(request, unwind));
  if (sources.length > MOST_IN_A_PAGE) {
    throw new QmpBackupError('usage', `a page has room for ${MOST_IN_A_PAGE} VMs, and these are ${sources.length}`, {
      hint: 'Name a folder: --output DIR. It gets an overview, and a page of each VM.',
    });
  }
  return unwinding((unwind) => writeOnePage(request, unwind));
}

async function writeFolder(request: ReportRequest, unwind: Unwind): Promise<ReportResult> {
  const made = new Unwind();
  await makeFolder(request.output, made, { mode: FOLDER_MODE });
  try {
    return await writePages(request, unwind);
  } catch (error) {
    // Where pages were written it stays, with what they tell.
    await made.run().catch(() => undefined);
    throw error;
  }
}

async function writePages(request: ReportRequest, unwind: Unwind): Promise<ReportResult> {
  const { output, sources, head, signal } = request;
  const folder = await lockedPlace(output, unwind);
  await refuseOtherFolder(folder);
  const place = async ({ row, bytes }: MadePage): Promise<PlacedPage> => {
    const name = `${nameOf(row, head)}.html`;
    await replaceUnflushed(join(folder, name), bytes, { mode: FILE_MODE });
    return { name, row: { ...row, href: encodeURIComponent(name) } };
  };
  const placed = await withPageThreads(sources.length, signal, (make) =>
    eachSource(request, async (source) => {
      const pages: PlacedPage[] = [];
      for (const each of await make({ source, head })) pages.push(await place(each));
      return pages;
    }),
  );
  const rows = placed.map(({ row }) => row);
  const index = page({ title: `Backups on ${head.host}`, body: overview(rows, head) });
  await replaceFile(join(folder, INDEX), index, { mode: FILE_MODE });
  const written = [INDEX, ...placed.map(({ name }) => name)];
  const removed = await removeOtherPages(folder, new Set(written));
  return { ...judged(rows), pages: written.map((name) => join(folder, name)), removed };
}

interface PlacedPage {
  readonly name: string;
  readonly row: OverviewRow;
}

async function writeOnePage(request: ReportRequest, unwind: Unwind): Promise<ReportResult> {
  const { output, head } = request;
  const folder = await lockedPlace(output, unwind);
  const path = join(folder, basename(output));
  await refuseOtherFile(path);
  const found = await eachSource(request, async (source) => {
    const views = await readViews(source, head);
    return views.map(({ view, row }): { readonly row: OverviewRow; readonly part: Html } => {
      const name = nameOf(row, head);
      const part = html`<article class="vm" id="${name}">${vmArticle(view, 2)}</article>`;
      return { row: { ...row, href: `#${encodeURIComponent(name)}` }, part };
    });
  });
  const [rows, parts] = [found.map(({ row }) => row), found.map(({ part }) => part)];
  const body = html`${overview(rows, head)}
    <main>${parts}</main>`;
  await replaceFile(path, page({ title: `Backups on ${head.host}`, body }), { mode: FILE_MODE });
  return { ...judged(rows), pages: [path], removed: [] };
}

/** The folder by its real name, held for this report. */
async function lockedPlace(output: string, unwind: Unwind): Promise<string> {
  const folder = isOnePage(output) ? dirname(output) : output;
  let place: string;
  try {
    place = await realpath(folder);
  } catch (error) {
    throw fileError('write to', folder, error);
  }
  const lock = await lockReport(isOnePage(output) ? join(place, basename(output)) : place, {
    breakLock: false,
    purpose: `report ${output}`,
  });
  unwind.defer(() => lock.release());
  return place;
}

/** The points of so many are held at once (15 MB of 720 points), and one that does not answer holds up no more than its lane. */
async function eachSource<T>(
  { sources, signal }: Pick<ReportRequest, 'sources' | 'signal'>,
  step: (source: VmSource) => Promise<readonly T[]>,
): Promise<readonly T[]> {
  const found = await inLanes(sources, LANES, (source) => {
    signal.throwIfAborted();
    return step(source);
  });
  signal.throwIfAborted();
  return found.flat();
}

function nameOf({ vm, target }: UnplacedRow, { config }: ReportHead): string {
  return pageName(vm, config === null ? target : null);
}

function judged(rows: readonly UnplacedRow[]): Pick<ReportResult, 'level' | 'vms'> {
  return { level: worstLevel(rows.map(({ level }) => level)), vms: rows.length };
}
