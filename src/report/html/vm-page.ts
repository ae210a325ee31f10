import { formatDuration } from '../../core/duration-text.js';
import { spanText } from '../../core/status.js';
import type { StepRecord, VmHistory } from '../../run/history.js';
import { lastBoot, type VmStatus } from '../status.js';
import type { BootPicture } from './boot-pictures.js';
import { calendar } from './calendar.js';
import { durationChart, sizeCharts } from './charts.js';
import { Html, html } from './html.js';
import type { ChainView, PointView } from './point-view.js';
import { pointsTable } from './points-table.js';
import { bytesData, plural, DASH, timeData } from './units.js';

/** A VM with all that is known of its backups. */
export interface VmView {
  readonly status: VmStatus;
  readonly chains: readonly ChainView[];
  readonly pictures: readonly BootPicture[];
}

/** `heading`: level of its heading; those of its parts are below. */
export function vmArticle({ status, chains, pictures }: VmView, heading: 1 | 2): Html {
  const { vm, target, level, history } = status;
  // One whose time was edited and is none stands in the table alone.
  const points = pointsOf({ chains })
    .filter(({ atMs }) => !Number.isNaN(atMs))
    .toSorted((a, b) => a.atMs - b.atMs);
  const title = html`<div class="title">${headed(heading, vm)}<span class="state ${level}">${level}</span></div>`;
  const part = (words: string, body: Html, more = ''): Html =>
    html`<section class="card ${more}">${headed(heading === 1 ? 2 : 3, words)}${body}</section> `;
  return html`${title}
    <p class="muted">${target}</p>
    ${facts(status)} ${status.reasons.length > 0 && part('What is wrong', reasons(status))}
    ${points.length > 0 && part('Calendar', calendar(points))}
    ${points.length > 0 && part('Size over time', sizeCharts(points))}
    ${points.length > 0 && part('Durations', html`${durationChart(points)}${history && lastBackup(history)}`)}
    ${pictures.length > 0 && part('Boot tests', bootFigures(pictures))} ${history && part('Last run', lastRun(history))}
    ${chains.length > 0 && part('Chains and points', pointsTable(chains, vm), 'long')}`;
}

function headed(level: 1 | 2 | 3, words: string): Html {
  const tag = Html.of(`h${level}`);
  return html`<${tag}>${words}</${tag}>`;
}

function facts(status: VmStatus): Html {
  const { facts: known, lastGood, ageMs, maxAgeMs, chainPoints, damaged, history } = status;
  const boot = known && lastBoot(known.points);
  const verified = history?.checks.verify;
  const fact = (name: string, value: Html | string | number, more: Html | string | null = null): Html =>
    html`<div>
      <dt>${name}</dt>
      <dd>${value}${more !== null && html`<small>${more}</small>`}</dd>
    </div>`;
  return html`<dl class="facts">
    ${[
      fact('Newest good point', timeData(lastGood?.point.createdAt)),
      fact(
        'Its age',
        ageMs === null ? DASH : spanText(ageMs),
        maxAgeMs === null ? 'not judged' : `${spanText(maxAgeMs)} allowed`,
      ),
      fact(
        'Points',
        known ? known.points.length : DASH,
        damaged > 0 ? html`<b class="bad">${damaged} damaged</b>` : null,
      ),
      fact('Newest chain', known ? plural(chainPoints, 'point') : DASH),
      fact(
        'Space taken',
        known ? bytesData(known.allocated) : DASH,
        known?.space ? html`${bytesData(known.space.free)} free of ${bytesData(known.space.total)}` : null,
      ),
      fact(
        'Verified',
        timeData(verified),
        known?.oldestProofAt ? html`each file read or written since ${timeData(known.oldestProofAt)}` : null,
      ),
      fact('Booted', timeData(boot?.at), boot ? bootWords(boot) : null),
    ]}
  </dl>`;
}

function bootWords({ afterMs }: { readonly afterMs: number | null }): Html | string {
  return afterMs === null ? html`<b class="bad">failed</b>` : `in ${formatDuration(afterMs)}`;
}

function reasons({ reasons: found, history }: VmStatus): Html {
  const since = history?.failingSince;
  return html`<ul class="reasons">
      ${found.map(({ level, text }) => html`<li class="${level}">${text}</li>`)}
    </ul>
    ${since != null && html`<p class="muted">It fails since ${timeData(since)}.</p>`}`;
}

function lastBackup({ backup }: VmHistory): Html {
  if (!backup) return html``;
  const { name, at, durationMs, frozenMs, pausedMs, bytes } = backup;
  const stood = [
    ...(frozenMs === null ? [] : [`guest frozen for ${frozenMs.toFixed(1)} ms`]),
    ...(pausedMs === null ? [] : [`VM paused for ${pausedMs.toFixed(1)} ms`]),
  ];
  return html`<p class="muted">
    Last backup by a run: ${name}, ${timeData(at)}, ${formatDuration(durationMs)} as a whole, ${bytesData(bytes)}
    copied${stood.map((each) => `, ${each}`)}.
  </p>`;
}

function lastRun({ run }: VmHistory): Html {
  return html`<p class="muted">${timeData(run.at)} to ${timeData(run.endedAt)}</p>
    <table class="plain stack">
      <caption class="hidden">
        Steps of the last run
      </caption>
      <thead>
        <tr>
          <th scope="col">Step</th>
          <th scope="col">Result</th>
          <th scope="col" class="number">Took</th>
          <th scope="col">What it said</th>
        </tr>
      </thead>
      <tbody>
        ${run.steps.map(stepRow)}
      </tbody>
    </table>`;
}

const RESULT_LEVEL = { ok: 'ok', skipped: 'ok', warnings: 'warning', failed: 'critical' } as const;

function stepRow({ verb, result, durationMs, why, hint, warnings, summary }: StepRecord): Html {
  const said = [why, summary, ...warnings].filter((each) => each !== null && each !== '');
  return html`<tr>
    <th scope="row">${verb}</th>
    <td><span class="state ${RESULT_LEVEL[result]}">${result}</span></td>
    <td class="number">${formatDuration(durationMs)}</td>
    <td>${said.map((each) => html`<p>${each}</p>`)}${hint !== null && html`<p class="muted">${hint}</p>`}</td>
  </tr>`;
}

function bootFigures(pictures: readonly BootPicture[]): Html {
  const figures = pictures.map(({ view, shown }) => {
    const { booted } = view.listed;
    const words = booted ? bootWords(booted) : null;
    return html`<figure>
      ${
        'source' in shown
          ? html`<img src="${shown.source}" alt="Screen of the VM when ${view.name} was started" />`
          : html`<p class="unseen">${shown.why}</p>`
      }
      <figcaption>${view.name}, started ${timeData(booted?.at)}, ${words}</figcaption>
    </figure>`;
  });
  return html`<div class="pictures">${figures}</div>`;
}

/** For the overview, which holds nothing of the points themselves. */
export function pointsOf({ chains }: Pick<VmView, 'chains'>): readonly PointView[] {
  return chains.flatMap((each) => each.points);
}
