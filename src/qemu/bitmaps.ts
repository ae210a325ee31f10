import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';

/** Removes bitmaps from the node they sit on; inconsistent ones too, for which it is the only valid operation. */
export async function removeBitmap(client: QmpClient, node: string, name: string): Promise<void> {
  await run(client, 'block-dirty-bitmap-remove', { node, name });
}
