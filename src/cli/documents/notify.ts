import type { Warning } from '../../core/warning.js';
import type { Notification } from '../../notify/notify.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import { notificationPart } from './run.js';
import type { NotifyTestDocument } from './schemas/notify.js';

export function notifyTestDocument(
  config: string,
  notifications: readonly Notification[],
  warnings: readonly Warning[],
): NotifyTestDocument {
  return {
    ...{ ...envelope('notify-test'), config },
    notifications: notifications.map(notificationPart),
    warnings: warnings.map(warningPart),
  };
}
