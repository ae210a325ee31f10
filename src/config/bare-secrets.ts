import { stat } from 'node:fs/promises';
import type { Config } from './config.js';
import { secretsOf } from './notifiers.js';
import { isOpenToAll } from './secret.js';

/** Why the secrets that the configuration itself has are none; null where it has none, or only few may read it. */
export async function bareSecrets({ file, notify }: Pick<Config, 'file' | 'notify'>): Promise<string | null> {
  const keys = notify.flatMap((notifier) =>
    secretsOf(notifier)
      .filter(({ secret }) => secret.source.kind === 'config')
      .map(({ key }) => `${key} of ${notifier.name}`),
  );
  if (keys.length === 0 || !isOpenToAll((await stat(file)).mode)) return null;
  return `${file} can be read by everybody, and has secrets in it: ${keys.join(', ')}; chmod o= it, or have them come from a file or credential`;
}
