import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { QmpCommandError } from '../qmp/errors.js';

/** The TPMs of the VM by id. A QEMU that was built without them does not know the question. */
export async function readTpms(client: QmpClient): Promise<readonly string[]> {
  try {
    return (await run(client, 'query-tpm')).map(({ id }) => id);
  } catch (error) {
    if (error instanceof QmpCommandError && error.errorClass === 'CommandNotFound') return [];
    throw error;
  }
}
