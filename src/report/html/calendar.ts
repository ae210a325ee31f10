import { Html, html } from './html.js';
import type { PointView } from './point-view.js';
import { plural } from './units.js';

/** Months, each day with a mark for each of its points: high for a FULL, coloured by how the guest was, underlined where it is proved. */

const [CELL, GAP, TOP] = [26, 2, 14];
const STEP = CELL + GAP;
const WIDTH = 7 * STEP - GAP;
const WEEKDAYS = ['M', 'T', 'W', 'T', 'F', 'S', 'S'];
/** Bars of a day have this much room, in the width of a cell, and stand on this line. */
const [BARS, BASE] = [CELL - 6, CELL - 5];
const HEIGHTS = { full: 12, copy: 12, diff: 8, inc: 5 } as const;
const MONTH_NAMES = new Intl.DateTimeFormat('en', { month: 'short', year: 'numeric' });

/** The newest month first, without months in which there is no point. `points`: oldest first. */
export function calendar(points: readonly PointView[]): Html {
  const months = new Map<string, Map<number, PointView[]>>();
  for (const point of points) {
    const date = new Date(point.atMs);
    const key = `${date.getFullYear()}-${date.getMonth()}`;
    const days = months.get(key) ?? new Map<number, PointView[]>();
    months.set(key, days);
    const ofDay = days.get(date.getDate());
    if (ofDay) ofDay.push(point);
    else days.set(date.getDate(), [point]);
  }
  const drawn = [...months].map(([key, days]) => {
    const [year = 0, index = 0] = key.split('-').map(Number);
    return month(year, index, days);
  });
  return html`<div class="months">${drawn.toReversed()}</div>
    ${LEGEND}`;
}

function month(year: number, index: number, days: ReadonlyMap<number, readonly PointView[]>): Html {
  const name = MONTH_NAMES.format(new Date(year, index, 1));
  const count = [...days.values()].reduce((sum, each) => sum + each.length, 0);
  // Weeks begin on Monday.
  const before = (new Date(year, index, 1).getDay() + 6) % 7;
  const length = new Date(year, index + 1, 0).getDate();
  const height = TOP + Math.ceil((before + length) / 7) * STEP;
  const marks = new Marks();
  const cells: Html[] = [];
  for (let day = 1; day <= length; day += 1) {
    const place = before + day - 1;
    const [x, y] = [(place % 7) * STEP, TOP + Math.floor(place / 7) * STEP];
    const ofDay = days.get(day) ?? [];
    marks.add(ofDay, x, y);
    const title = ofDay.length > 0 && html`<title>${titleOf(ofDay)}</title>`;
    cells.push(
      html`<g
        >${title}<rect
          class="${ofDay.length > 0 ? 'day' : 'day empty'}"
          x="${x}"
          y="${y}"
          width="${CELL}"
          height="${CELL}"
          rx="4"
        /><text x="${x + 4}" y="${y + 9}">${day}</text></g
      >`,
    );
  }
  const names = WEEKDAYS.map(
    (each, at) => html`<text x="${at * STEP + CELL / 2}" y="9" class="weekday">${each}</text>`,
  );
  return html`<figure class="month">
    <figcaption>${name} <span>${plural(count, 'point')}</span></figcaption>
    <svg
      viewBox="0 0 ${WIDTH} ${height}"
      role="img"
      aria-label="${name}: ${plural(count, 'point')} on ${plural(days.size, 'day')}"
    >
      ${names}${cells}${marks.drawn()}
    </svg>
  </figure> `;
}

/** The bars of a month, one path for each colour: a rectangle of its own for each would take ten times the space. */
class Marks {
  readonly #paths = new Map<string, string>();

  add(points: readonly PointView[], x: number, y: number): void {
    const width = Math.min(4, BARS / points.length);
    const bar = Math.max(0.5, width - (width > 2 ? 1 : 0));
    const across = bar.toFixed(1);
    for (const [index, { state, listed, proved }] of points.entries()) {
      const left = (x + 3 + index * width).toFixed(1);
      const height = HEIGHTS[listed.point.level];
      this.#draw(state, `M${left} ${y + BASE}v-${height}h${across}v${height}z`);
      if (proved !== null) this.#draw('proved', `M${left} ${y + BASE + 1}h${across}v1.6h-${across}z`);
      if (listed.booted) {
        const middle = (x + 3 + index * width + bar / 2).toFixed(1);
        this.#draw(listed.booted.why === null ? 'booted' : 'lost', `M${middle} ${y + BASE - height - 5}l2 3.4h-4z`);
      }
    }
  }

  #draw(kind: string, path: string): void {
    this.#paths.set(kind, (this.#paths.get(kind) ?? '') + path);
  }

  drawn(): readonly Html[] {
    return [...this.#paths].map(([kind, path]) => html`<path class="${kind}" d="${Html.of(path)}" />`);
  }
}

function titleOf(points: readonly PointView[]): string {
  return points
    .map(({ taken, name, state, listed: { point, booted }, proved }) => {
      const how = state === 'lost' ? 'cannot be restored' : state;
      const verified = proved === null ? '' : `, verified ${proved.text}`;
      const boot = booted === null ? '' : booted.why === null ? ', booted' : ', does not boot';
      return `${taken.text}  ${name} ${point.level.toUpperCase()}, ${how}${verified}${boot}`;
    })
    .join('\n');
}

function key(kind: string, words: string): Html {
  const shapes: Readonly<Record<string, string>> = {
    full: 'M4 14v-12h5v12z',
    diff: 'M4 14v-8h5v8z',
    inc: 'M4 14v-5h5v5z',
    proved: 'M2 11h10v2h-10z',
    booted: 'M7 4l4 7h-8z',
  };
  const path = shapes[kind] ?? 'M2 3h10v10h-10z';
  return html`<li>
    <svg viewBox="0 0 14 16" aria-hidden="true"><path class="${kind}" d="${Html.of(path)}" /></svg>${words}
  </li>`;
}

const LEGEND = html`<ul class="legend">
  ${[
    key('full', 'FULL or copy'),
    key('diff', 'DIFF'),
    key('inc', 'INC'),
    key('filesystem', 'guest frozen'),
    key('crash', 'as after a power cut'),
    key('offline', 'VM was off'),
    key('lost', 'cannot be restored, or does not boot'),
    key('proved', 'every byte verified'),
    key('booted', 'booted'),
  ]}
</ul>`;
