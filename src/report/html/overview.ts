import { formatBytes } from '../../core/bytes.js';
import { spanText, type StatusLevel, worstLevel } from '../../core/status.js';
import { lastBoot, type VmStatus } from '../status.js';
import { Html, html } from './html.js';
import type { PointView } from './point-view.js';
import { bytesData, plural, DASH, timeData } from './units.js';

/** What the overview shows of a VM: a few figures, for it is made when the points of all are let go. */
export interface OverviewRow extends Pick<VmStatus, 'vm' | 'target' | 'level' | 'reasons' | 'ageMs' | 'maxAgeMs'> {
  /** Where its page or part is. */
  readonly href: string;
  readonly lastGoodAt: string | null;
  /** Null where its target could not be read. */
  readonly points: number | null;
  readonly chainPoints: number;
  /** Bytes. */
  readonly allocated: number;
  readonly verifiedAt: string | null;
  readonly booted: { readonly at: string; readonly why: string | null } | null;
  /** The last days, the oldest first: how its newest point of that day is, or null. */
  readonly days: readonly (PointView['state'] | null)[];
}

const DAYS = 30;
const DAY_MS = 86_400_000;

export function overviewRow(status: VmStatus, points: readonly PointView[], now: Date): Omit<OverviewRow, 'href'> {
  const { vm, target, level, reasons, ageMs, maxAgeMs, facts, lastGood, chainPoints, history } = status;
  const boot = lastBoot(facts?.points ?? []);
  return {
    ...{ vm, target, level, reasons, ageMs, maxAgeMs, chainPoints },
    lastGoodAt: lastGood?.point.createdAt ?? null,
    points: facts && facts.points.length,
    allocated: facts?.allocated ?? 0,
    verifiedAt: history?.checks.verify ?? null,
    booted: boot && { at: boot.at, why: boot.why },
    days: lastDays(points, now),
  };
}

function lastDays(points: readonly PointView[], now: Date): OverviewRow['days'] {
  const end = new Date(now.getFullYear(), now.getMonth(), now.getDate() + 1).getTime();
  const newest = new Array<PointView | null>(DAYS).fill(null);
  for (const point of points) {
    const at = DAYS - 1 - Math.floor((end - 1 - point.atMs) / DAY_MS);
    const known = newest[at];
    if (known !== undefined && (known === null || known.atMs <= point.atMs)) newest[at] = point;
  }
  return newest.map((each) => each && each.state);
}

export interface ReportHead {
  /** Of this host. */
  readonly host: string;
  readonly now: Date;
  /** Null where targets were named. */
  readonly config: string | null;
  readonly targets: readonly string[];
  /** What was warned of when it was made. */
  readonly warnings: readonly string[];
}

/** Heading and all VMs at a glance, the worst first. */
export function overview(rows: readonly OverviewRow[], head: ReportHead): Html {
  const inOrder = rows.toSorted((a, b) => SEVERITY[a.level] - SEVERITY[b.level] || collator.compare(a.vm, b.vm));
  const level = worstLevel(rows.map((each) => each.level));
  const wrong = inOrder.filter((each) => each.level !== 'ok');
  return html`<header class="top">
      <div class="title">
        <h1>Backups on ${head.host}</h1>
        <span class="state ${level}">${level}</span>
      </div>
      <p>
        ${rows.length === 0 ? 'There is no VM.' : wrong.length === 0 ? `All is well with ${plural(rows.length, 'VM')}.` : `${wrong.length} of ${plural(rows.length, 'VM')} ${wrong.length === 1 ? 'needs' : 'need'} attention.`}
      </p>
      <p class="muted">As of ${timeData(head.now.toISOString())}, by ${head.config ?? head.targets.join(', ')}</p>
    </header>
    <main>
      ${
        head.warnings.length > 0 &&
        html`<ul class="reasons">
          ${head.warnings.map((each) => html`<li class="warning">${each}</li>`)}
        </ul>`
      }
      ${figures(rows)} ${wrong.length > 0 && attention(wrong)}
      <section class="card">
        <h2>All VMs</h2>
        ${table(inOrder)}
      </section>
    </main>`;
}

const SEVERITY: Readonly<Record<StatusLevel, number>> = { critical: 0, warning: 1, ok: 2 };
const collator = new Intl.Collator('en', { numeric: true });

function figures(rows: readonly OverviewRow[]): Html {
  const count = (level: StatusLevel): number => rows.filter((each) => each.level === level).length;
  const fact = (name: string, value: Html | string | number): Html =>
    html`<div>
      <dt>${name}</dt>
      <dd>${value}</dd>
    </div>`;
  const oldest = rows
    .map(({ lastGoodAt }) => lastGoodAt)
    .filter((each) => each !== null)
    .toSorted()[0];
  return html`<dl class="facts">
    ${[
      fact('Well', count('ok')),
      fact('Warning', count('warning')),
      fact('Critical', count('critical')),
      fact(
        'Points',
        rows.reduce((sum, { points }) => sum + (points ?? 0), 0),
      ),
      fact('Space taken', bytesData(rows.reduce((sum, { allocated }) => sum + allocated, 0))),
      fact('Least recent good point', timeData(oldest)),
    ]}
  </dl>`;
}

function attention(rows: readonly OverviewRow[]): Html {
  const lines = rows.flatMap(({ vm, href, reasons }) =>
    reasons.map(({ level, text }) => html`<li class="${level}"><a href="${href}">${vm}</a> ${text}</li>`),
  );
  return html`<section class="card">
    <h2>Needs attention</h2>
    <ul class="reasons">
      ${lines}
    </ul>
  </section>`;
}

const COLUMNS = [
  'VM',
  'State',
  'Newest good point',
  'Age',
  `Last ${DAYS} days`,
  'Points',
  'Chain',
  'Space',
  'Verified',
  'Booted',
];
const NUMBERS = ['Points', 'Chain', 'Space'];

/** Roles are told, for on a phone the rows are laid out as cards, and no longer as what a table is. */
function table(rows: readonly OverviewRow[]): Html {
  const heads = COLUMNS.map(
    (name) => html`<th role="columnheader" scope="col" class="${NUMBERS.includes(name) && 'number'}">${name}</th>`,
  );
  return html`<div class="scroll" role="region" tabindex="0" aria-label="All VMs">
    <table class="overview" role="table">
      <thead role="rowgroup">
        <tr role="row">
          ${heads}
        </tr>
      </thead>
      <tbody role="rowgroup">
        ${rows.map(row)}
      </tbody>
    </table>
  </div>`;
}

function row(each: OverviewRow): Html {
  const { vm, href, level, lastGoodAt, ageMs, maxAgeMs, days, points, chainPoints, allocated, verifiedAt, booted } =
    each;
  const cell = (label: string, value: Html | string | number, kind = ''): Html =>
    html`<td role="cell" data-label="${label}" class="${kind}"><div>${value}</div></td>`;
  return html`<tr role="row" class="${level}">
    <th role="rowheader" scope="row"><a href="${href}">${vm}</a></th>
    ${[
      cell('State', html`<span class="state ${level}">${level}</span>`),
      cell('Newest good point', timeData(lastGoodAt)),
      cell('Age', ageMs === null ? DASH : html`${spanText(ageMs)}${maxAgeMs !== null && meter(ageMs, maxAgeMs)}`),
      cell(`Last ${DAYS} days`, strip(days)),
      cell('Points', points ?? DASH, 'number'),
      cell('Chain', points === null ? DASH : chainPoints, 'number'),
      cell(
        'Space',
        points === null ? DASH : html`<data value="${allocated}">${formatBytes(allocated)}</data>`,
        'number',
      ),
      cell('Verified', timeData(verifiedAt)),
      cell(
        'Booted',
        booted === null ? DASH : html`${timeData(booted.at)}${booted.why !== null && html` <b class="bad">failed</b>`}`,
      ),
    ]}
  </tr> `;
}

function meter(ageMs: number, maxAgeMs: number): Html {
  const part = Math.min(1, Math.max(0, ageMs / maxAgeMs));
  return html`<svg
    class="meter"
    viewBox="0 0 100 4"
    preserveAspectRatio="none"
    role="img"
    aria-label="of ${spanText(maxAgeMs)} allowed"
  >
    <rect class="all" width="100" height="4" />
    <rect class="${ageMs > maxAgeMs ? 'over' : 'ok'}" width="${Math.round(part * 100)}" height="4" />
  </svg>`;
}

function strip(days: OverviewRow['days']): Html {
  const paths = new Map<string, string>();
  for (const [at, state] of days.entries()) {
    const kind = state ?? 'day';
    const bar = state === null ? `M${at * 4} 11h3v3h-3z` : `M${at * 4} 1h3v13h-3z`;
    paths.set(kind, (paths.get(kind) ?? '') + bar);
  }
  const drawn = [...paths].map(([kind, path]) => html`<path class="${kind}" d="${Html.of(path)}" />`);
  const count = days.filter((each) => each !== null).length;
  return html`<svg class="strip" viewBox="0 0 119 14" role="img" aria-label="points on ${count} of ${days.length} days">
    ${drawn}
  </svg>`;
}
