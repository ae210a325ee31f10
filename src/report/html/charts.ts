import { formatBytes } from '../../core/bytes.js';
import { formatDuration } from '../../core/duration-text.js';
import { formatDay } from '../../host/local-time.js';
import { Html, html } from './html.js';
import type { PointView } from './point-view.js';
import { linearScale, logScale, type Scale, timeScale } from './scale.js';
import { bytesData } from './units.js';

/**
 * Charts as SVG that takes the width there is. Words stand beside it as HTML: in a picture that shrinks they could not be read on a
 * phone.
 */
const [WIDTH, HEIGHT] = [1000, 200];
/** More colours than these nobody tells apart: the smallest disks are one. */
const MOST_SERIES = 8;

interface Series {
  readonly name: string;
  /** Bytes of all its files. */
  readonly total: number;
  /** Of each point, in the order of the points; 0 where it has no file. */
  readonly sizes: readonly number[];
  readonly files: number;
}

/** How the space that is taken now came together, and what each point took, by disk. `points`: oldest first. */
export function sizeCharts(points: readonly PointView[]): Html {
  const series = seriesOf(points);
  const times = timeScale(points[0]?.atMs ?? 0, points.at(-1)?.atMs ?? 1);
  const rows = series.map(
    ({ name, total, files }, index) =>
      html`<tr>
        <th scope="row"><i class="swatch s${index}"></i>${name}</th>
        <td class="number">${bytesData(total)}</td>
        <td class="number">${files}</td>
      </tr>`,
  );
  return html`<div class="charts">
      <figure class="chart">
        <figcaption>Space taken by the points of today, by when they were made</figcaption>
        ${stacked(points, series, times)}
      </figure>
      <figure class="chart">
        <figcaption>Size of each point</figcaption>
        ${sizeDots(points, series, times)}
      </figure>
    </div>
    <table class="plain disks">
      <caption class="hidden">
        Space by disk
      </caption>
      <thead>
        <tr>
          <th scope="col">Disk</th>
          <th scope="col" class="number">Space</th>
          <th scope="col" class="number">Files</th>
        </tr>
      </thead>
      <tbody>
        ${rows}
      </tbody>
    </table>`;
}

function seriesOf(points: readonly PointView[]): readonly Series[] {
  const found = new Map<string, { readonly sizes: number[]; files: number }>();
  for (const [index, { listed }] of points.entries()) {
    for (const { disk, allocated, state } of listed.point.disks) {
      if (state === 'merged') continue;
      const known = found.get(disk) ?? { sizes: new Array<number>(points.length).fill(0), files: 0 };
      found.set(disk, known);
      known.sizes[index] = allocated;
      known.files += 1;
    }
  }
  const all = [...found].map(([name, each]): Series => ({ name, ...each, total: sum(each.sizes) }));
  const inOrder = all.toSorted((a, b) => b.total - a.total);
  if (inOrder.length <= MOST_SERIES) return inOrder;
  const others = inOrder.slice(MOST_SERIES - 1);
  const together = points.map((_, index) => sum(others.map((each) => each.sizes[index] ?? 0)));
  const rest = {
    ...{ name: `${others.length} other disks`, sizes: together, total: sum(together) },
    files: sum(others.map(({ files }) => files)),
  };
  return [...inOrder.slice(0, MOST_SERIES - 1), rest];
}

function sum(values: readonly number[]): number {
  return values.reduce((total, each) => total + each, 0);
}

function stacked(points: readonly PointView[], series: readonly Series[], times: Scale): Html {
  const scale = linearScale(sum(series.map(({ total }) => total)), { base: 1024 });
  let below = points.map(() => 0);
  const areas = series.map(({ sizes }, index) => {
    let taken = 0;
    const above = points.map((_, at) => (below[at] ?? 0) + (taken += sizes[at] ?? 0));
    const path = areaBetween(points, { above, below }, times, scale);
    below = above;
    return html`<path class="area s${index}" d="${Html.of(path)}" />`;
  });
  return plot(
    areas,
    scale.ticks.map(formatBytes),
    times,
    `${formatBytes(sum(series.map(({ total }) => total)))} in all`,
  );
}

/** Steps: what is taken does not change between points. */
function areaBetween(
  points: readonly PointView[],
  { above, below }: { readonly above: readonly number[]; readonly below: readonly number[] },
  times: Scale,
  scale: Scale,
): string {
  const x = (index: number): string => place(times.at(points[index]?.atMs ?? 0) * WIDTH);
  const y = (value: number): string => place((1 - scale.at(value)) * HEIGHT);
  let last = y(above[0] ?? 0);
  let path = `M0 ${last}`;
  // Along a line that stays level nothing is drawn: the lowest area ends with one.
  const stepTo = (index: number, height: string): void => {
    if (height !== last) path += `H${x(index)}V${height}`;
    last = height;
  };
  for (let at = 1; at < points.length; at += 1) stepTo(at, y(above[at] ?? 0));
  last = y(below.at(-1) ?? 0);
  path += `H${WIDTH}V${last}`;
  for (let at = points.length - 1; at > 0; at -= 1) stepTo(at, y(below[at - 1] ?? 0));
  return `${path}H0Z`;
}

function sizeDots(points: readonly PointView[], series: readonly Series[], times: Scale): Html {
  const scale = logScale(
    series.flatMap(({ sizes }) => sizes.filter((size) => size > 0)),
    { factor: 16, least: 4096 },
  );
  const dots = series.map(({ sizes }, index) => {
    const shown = points.flatMap(({ atMs }, at) => {
      const size = sizes[at] ?? 0;
      return size > 0 ? [dot(times.at(atMs), scale.at(size))] : [];
    });
    return html`<path class="dots s${index}" d="${Html.of(shown.join(''))}" />`;
  });
  return plot(dots, scale.ticks.map(formatBytes), times, 'a dot for each file');
}

/** How long each point took, on a scale of powers of ten. `points`: oldest first. */
export function durationChart(points: readonly PointView[]): Html {
  const times = timeScale(points[0]?.atMs ?? 0, points.at(-1)?.atMs ?? 1);
  const scale = logScale(
    points.map(({ tookMs }) => tookMs),
    { factor: 10, least: 1 },
  );
  const kinds = [
    { name: 'FULL, copy', kind: 'd-full', of: points.filter(({ listed: { point } }) => isWhole(point.level)) },
    { name: 'INC, DIFF', kind: 'd-inc', of: points.filter(({ listed: { point } }) => !isWhole(point.level)) },
  ].filter(({ of }) => of.length > 0);
  const dots = kinds.map(({ kind, of }) => {
    const path = of.map(({ atMs, tookMs }) => dot(times.at(atMs), scale.at(tookMs))).join('');
    return html`<path class="dots ${kind}" d="${Html.of(path)}" />`;
  });
  const legend = kinds.map(({ name, kind, of }) => {
    const sorted = of.map(({ tookMs }) => tookMs).toSorted((a, b) => a - b);
    const [middle = 0, longest = 0] = [sorted[Math.floor((sorted.length - 1) / 2)], sorted.at(-1)];
    return html`<li>
      <i class="swatch ${kind}"></i>${name}: median ${formatDuration(middle)}, longest ${formatDuration(longest)}
    </li>`;
  });
  return html`<figure class="chart">
    <figcaption>Time that the slowest disk of each point took</figcaption>
    ${plot(dots, scale.ticks.map(formatDuration), times, 'a dot for each point')}
    <ul class="legend">
      ${legend}
    </ul>
  </figure>`;
}

function isWhole(level: string): boolean {
  return level === 'full' || level === 'copy';
}

/** A line without length, whose round ends are a dot at any width of the picture. */
function dot(x: number, y: number): string {
  return `M${place(x * WIDTH)} ${place((1 - y) * HEIGHT)}h0`;
}

function place(value: number): string {
  return String(Math.round(value * 10) / 10);
}

function plot(drawn: readonly Html[], labels: readonly string[], times: Scale, words: string): Html {
  const lines = labels.map((_, index) => `M0 ${place(HEIGHT - (HEIGHT * index) / (labels.length - 1))}h${WIDTH}`);
  const days = times.ticks.map((ms) => formatDay(new Date(ms)));
  // Within a day or two they would be the same.
  const shown =
    new Set(days).size === days.length
      ? days
      : [days[0] ?? '', ...(days[0] === days.at(-1) ? [] : [days.at(-1) ?? ''])];
  return html`<div class="plot">
    <div class="y" aria-hidden="true">${labels.toReversed().map((each) => html`<span>${each}</span>`)}</div>
    <svg
      viewBox="0 0 ${WIDTH} ${HEIGHT}"
      preserveAspectRatio="none"
      role="img"
      aria-label="Chart from ${shown[0] ?? ''} to ${shown.at(-1) ?? ''}, up to ${labels.at(-1) ?? ''}: ${words}"
    >
      <path class="grid" d="${Html.of(lines.join(''))}" />
      ${drawn}
    </svg>
    <div class="x" aria-hidden="true">${shown.map((each) => html`<span>${each}</span>`)}</div>
  </div>`;
}
