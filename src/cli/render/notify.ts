import type { Notification } from '../../notify/notify.js';
import { table } from './table.js';

/** A row for each notifier. */
export function renderNotifications(told: readonly Notification[]): string {
  const rows = told.map(({ notifier, kind, failed }) => [
    notifier,
    kind,
    failed === null ? 'told' : `failed: ${failed}`,
  ]);
  return table([['NOTIFIER', 'BY', 'RESULT'], ...rows]);
}
