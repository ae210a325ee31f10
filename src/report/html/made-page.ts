import { resolve } from 'node:path';
import { readStatuses, type VmSource } from '../status.js';
import { bootPictures } from './boot-pictures.js';
import { type Html, html } from './html.js';
import { INDEX } from './output-folder.js';
import { type OverviewRow, overviewRow, type ReportHead } from './overview.js';
import { page } from './page.js';
import { chainsOf } from './point-view.js';
import { timeData } from './units.js';
import { pointsOf, vmArticle, type VmView } from './vm-page.js';

/** The page of a VM, and what the overview shows of it once its points are let go. Plain data, as `PageTask`: threads hand them on. */
export interface MadePage {
  readonly row: UnplacedRow;
  /** Of its file; not shared, so that a thread can give them away. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** It is not yet known where its page will be. */
export type UnplacedRow = Omit<OverviewRow, 'href'>;

export interface PageTask {
  readonly source: VmSource;
  readonly head: ReportHead;
}

/** One for each VM that the source is of. */
export async function makePages({ source, head }: PageTask): Promise<readonly MadePage[]> {
  const pages: MadePage[] = [];
  for (const { view, row } of await readViews(source, head)) {
    const body = html`<header class="top">
        <nav><a href="${INDEX}">All VMs</a></nav>
      </header>
      <main>${vmArticle(view, 1)}${madeAt(head)}</main>`;
    pages.push({ row, bytes: bytesOf(page({ title: `${row.vm} \u2013 backups`, body })) });
  }
  return pages;
}

/** A page is ASCII, which is written twice as quickly as UTF-8. */
function bytesOf(text: string): Buffer<ArrayBuffer> {
  const bytes = Buffer.allocUnsafeSlow(text.length);
  bytes.write(text, 'latin1');
  return bytes;
}

/** Each VM that the source is of, with what the overview shows of it. */
export async function readViews(
  source: VmSource,
  { now }: Pick<ReportHead, 'now'>,
): Promise<readonly { readonly view: VmView; readonly row: UnplacedRow }[]> {
  const views = [];
  for (const status of await readStatuses(source)) {
    const chains = status.facts ? chainsOf(status.facts) : [];
    const points = pointsOf({ chains });
    const pictures = source.evidence === null ? [] : await bootPictures(points, resolve(source.evidence));
    views.push({ view: { status, chains, pictures }, row: overviewRow(status, points, now) });
  }
  return views;
}

function madeAt({ now, host }: ReportHead): Html {
  return html`<p class="muted">As of ${timeData(now.toISOString())}, on ${host}</p>`;
}
