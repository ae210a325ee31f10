import { formatBytes } from '../../core/bytes.js';
import { formatDuration } from '../../core/duration-text.js';
import { type Html, html } from './html.js';
import type { ChainView, PointView } from './point-view.js';
import { bytesData, plural, DASH, timeData } from './units.js';

/** Every point, the newest first, with what it needs and what would be free without it. */
export function pointsTable(chains: readonly ChainView[], vm: string): Html {
  const several = new Set(chains.map(({ target }) => target)).size > 1;
  return html`<div class="scroll" role="region" tabindex="0" aria-label="Points of ${vm}">
    <table class="points">
      <caption class="hidden">
        Points of ${vm}, chain after chain, the newest first
      </caption>
      <thead>
        <tr>
          ${COLUMNS.map(([name, kind]) => html`<th scope="col" class="${kind}">${name}</th>`)}
        </tr>
      </thead>
      ${chains.map(
        (chain) =>
          html`<tbody>
            ${chainRow(chain, several)}${chain.points.toReversed().map(pointRow)}
          </tbody> `,
      )}
    </table>
  </div>`;
}

const COLUMNS: readonly (readonly [string, string])[] = [
  ['Point', 'first'],
  ['Taken', ''],
  ['Level', ''],
  ['Consistency', ''],
  ['Size', 'number'],
  ['Needs', ''],
  ['Frees', 'number'],
  ['Took', 'number'],
  ['Verified', ''],
  ['Booted', ''],
  ['Disks', ''],
];

function chainRow({ target, chain, points }: ChainView, several: boolean): Html {
  const size = points.reduce((total, each) => total + each.size, 0);
  const name = chain === null ? 'Copies, outside every chain' : `Chain ${chain}`;
  return html`<tr class="chain">
    <th scope="rowgroup" colspan="${COLUMNS.length}">
      <span>${name}</span>
      <small>${plural(points.length, 'point')}, ${formatBytes(size)}${several && html`, ${target}`}</small>
    </th>
  </tr> `;
}

function pointRow(view: PointView): Html {
  const { listed, name, size, tookMs, needs, taken, proved } = view;
  const { point, files, freed, booted } = listed;
  return html`<tr class="${view.state}">
      <th scope="row" class="first">${name}</th>
      <td>${taken.html}</td>
      <td><span class="level ${point.level}">${point.level.toUpperCase()}</span></td>
      <td><i class="dot ${view.state}"></i>${point.consistency}</td>
      <td class="number">${bytesData(size)}</td>
      <td>${files === 1 ? 'itself' : files === 0 ? DASH : html`${files} files <small>${needs}</small>`}</td>
      <td class="number">${freed.neededBy.length === 0 ? bytesData(freed.bytes) : DASH}</td>
      <td class="number">${formatDuration(tookMs)}</td>
      <td>${proved === null ? DASH : proved.html}</td>
      <td>
        ${booted === null ? DASH : html`${timeData(booted.at)} ${booted.afterMs === null ? html`<b class="bad">failed</b>` : html`<small>in ${formatDuration(booted.afterMs)}</small>`}`}
      </td>
      <td class="parts">${disksOf(view)}</td>
    </tr>
    ${remarksRow(view)}`;
}

/** In a row of its own: in a column it would be out of sight on a phone, and make the row as high as it is long. */
function remarksRow({ name, state, listed: { point, booted, notWhole, suspect } }: PointView): Html | null {
  const remarks = [
    ...(notWhole === null ? [] : [html`<b class="bad">cannot be restored</b>: ${notWhole}`]),
    ...(booted?.why == null ? [] : [html`<b class="bad">does not boot</b>: ${booted.why}`]),
    ...suspect.map(({ disk, why }) => html`<b class="bad">${disk} is suspect</b>: ${why}`),
    ...(point.lacks ?? []).flatMap(({ disk, reason, kind }) =>
      kind === 'failed' ? html`without ${disk}: ${reason}` : [],
    ),
    ...(point.pinned === true ? [html`<b>pinned</b>`] : []),
    ...(point.note === undefined ? [] : [html`note: ${point.note}`]),
  ];
  if (remarks.length === 0) return null;
  return html`<tr class="remarks ${state}">
    <td colspan="${COLUMNS.length}">
      <ul aria-label="Of ${name}">
        ${remarks.map((each) => html`<li>${each}</li>`)}
      </ul>
    </td>
  </tr> `;
}

function disksOf({ listed: { point, suspect } }: PointView): readonly Html[] {
  const several = point.disks.length > 1;
  const disks = point.disks.map(({ disk, level, state, allocated, compared, plaintextOfEncrypted }, index) => {
    const notes = [
      ...(several ? [formatBytes(state === 'merged' ? 0 : allocated)] : []),
      ...(level === point.level ? [] : [level.toUpperCase()]),
      ...(compared ? ['by comparison'] : []),
      ...(state === 'whole' ? [] : [state]),
      ...(plaintextOfEncrypted ? ['decrypted'] : []),
      ...(suspect.some((each) => each.disk === disk) ? ['suspect'] : []),
    ];
    return html`${index > 0 && ', '}${disk}${notes.length > 0 && html` <small>${notes.join(', ')}</small>`}`;
  });
  const without = (point.lacks ?? []).filter(({ kind }) => kind !== 'request').map(({ disk }) => disk);
  return without.length === 0 ? disks : [...disks, html` <b class="bad">without ${without.join(', ')}</b>`];
}
