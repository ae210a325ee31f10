import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { folderName } from '../../core/names.js';
import { type StatusLevel, worstLevel } from '../../core/status.js';
import { formatTime } from '../../host/local-time.js';
import { QmpBackupError } from '../../errors.js';
import { inLanes } from '../../flow/lanes.js';
import { Unwind, unwinding } from '../../flow/unwind.js';
import { replaceFile } from '../../host/durable.js';
import { fileError } from '../../host/file-errors.js';
import { lockReport } from '../../repository/lock.js';
import { makeFolder } from '../../repository/make-folder.js';
import type { VmReader, VmStatus } from '../status.js';
import { bootPictures } from './boot-pictures.js';
import { type Html, html } from './html.js';
import { INDEX, refuseOtherFile, refuseOtherFolder, removeOtherPages } from './output-folder.js';
import { overview, type OverviewRow, overviewRow, type ReportHead } from './overview.js';
import { page } from './page.js';
import { chainsOf } from './point-view.js';
import { pointsOf, vmArticle, type VmView } from './vm-page.js';

/** A report: pages of a folder, or one page with all. */
export interface ReportRequest {
  /** Absolute; what ends with `.html` is one page. */
  readonly output: string;
  readonly readers: readonly VmReader[];
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

/** So many at a time: the points of these are held at once (15 MB of 720 points), and one that does not answer holds up no more than its lane. */
const LANES = 2;

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
  const { output, readers } = request;
  if (!isOnePage(output)) return unwinding((unwind) => writeFolder(request, unwind));
  if (readers.length > MOST_IN_A_PAGE) {
    throw new QmpBackupError('usage', `a page has room for ${MOST_IN_A_PAGE} VMs, and these are ${readers.length}`, {
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

async function writePages({ output, readers, head, signal }: ReportRequest, unwind: Unwind): Promise<ReportResult> {
  const folder = await lockedPlace(output, unwind);
  await refuseOtherFolder(folder);
  const names = new Names();
  const rows = await eachVm({ readers, head, signal }, async (view) => {
    const name = `${names.of(view.status)}.html`;
    const body = html`<header class="top">
        <nav><a href="${INDEX}">All VMs</a></nav>
      </header>
      <main>${vmArticle(view, 1)}${madeAt(head)}</main>`;
    await replaceFile(join(folder, name), page({ title: `${view.status.vm} – backups`, body }), { mode: FILE_MODE });
    return { href: encodeURIComponent(name), kept: name };
  });
  const index = page({
    title: `Backups on ${head.host}`,
    body: overview(
      rows.map(({ row }) => row),
      head,
    ),
  });
  await replaceFile(join(folder, INDEX), index, { mode: FILE_MODE });
  const written = [INDEX, ...rows.map(({ kept }) => kept)];
  const removed = await removeOtherPages(folder, new Set(written));
  return { ...judged(rows), pages: written.map((name) => join(folder, name)), removed };
}

async function writeOnePage({ output, readers, head, signal }: ReportRequest, unwind: Unwind): Promise<ReportResult> {
  const folder = await lockedPlace(output, unwind);
  const path = join(folder, basename(output));
  await refuseOtherFile(path);
  const names = new Names();
  const found = await eachVm({ readers, head, signal }, (view) => {
    const name = names.of(view.status);
    const part = html`<article class="vm" id="${name}">${vmArticle(view, 2)}</article>`;
    return Promise.resolve({ href: `#${encodeURIComponent(name)}`, kept: part });
  });
  const parts: readonly Html[] = found.map(({ kept }) => kept);
  const body = html`${overview(
      found.map(({ row }) => row),
      head,
    )}
    <main>${parts}</main>`;
  await replaceFile(path, page({ title: `Backups on ${head.host}`, body }), { mode: FILE_MODE });
  return { ...judged(found), pages: [path], removed: [] };
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

interface Written<Kept> {
  readonly row: OverviewRow;
  readonly kept: Kept;
}

async function eachVm<Kept>(
  { readers, head, signal }: Pick<ReportRequest, 'readers' | 'head' | 'signal'>,
  write: (view: VmView) => Promise<{ readonly href: string; readonly kept: Kept }>,
): Promise<readonly Written<Kept>[]> {
  const found = await inLanes(readers, LANES, async (reader) => {
    signal.throwIfAborted();
    const written: Written<Kept>[] = [];
    for (const status of await reader.read()) {
      const view = await viewOf(status, reader.evidence);
      const { href, kept } = await write(view);
      written.push({ row: overviewRow(status, pointsOf(view), { href, now: head.now }), kept });
    }
    return written;
  });
  signal.throwIfAborted();
  return found.flat();
}

async function viewOf(status: VmStatus, evidence: string | null): Promise<VmView> {
  const chains = status.facts ? chainsOf(status.facts) : [];
  const pictures = evidence === null ? [] : await bootPictures(pointsOf({ chains }), resolve(evidence));
  return { status, chains, pictures };
}

function judged(rows: readonly Written<unknown>[]): Pick<ReportResult, 'level' | 'vms'> {
  return { level: worstLevel(rows.map(({ row }) => row.level)), vms: rows.length };
}

function madeAt({ now, host }: ReportHead): Html {
  return html`<p class="muted">
    As of <time datetime="${now.toISOString()}">${formatTime(now.toISOString())}</time>, on ${host}
  </p>`;
}

/** Longer ones are cut; what was made of two names and is the same is told apart by their targets. */
const LONGEST = 120;

class Names {
  readonly #taken = new Set<string>();

  of({ vm, target }: Pick<VmStatus, 'vm' | 'target'>): string {
    const plain = `vm-${folderName(vm, LONGEST).replaceAll(' ', '_')}`;
    const name = this.#taken.has(plain)
      ? `${plain}-${createHash('sha256').update(target).digest('hex').slice(0, 12)}`
      : plain;
    this.#taken.add(name);
    return name;
  }
}
