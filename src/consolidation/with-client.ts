import type { NbdSource } from '../core/nbd-address.js';
import { NbdClient } from '../nbd/client.js';

/** Hands `use` a client of an export, and hangs up afterwards. */
export async function withClient<T>(
  { address, exportName }: NbdSource,
  { contexts = [] }: { readonly contexts?: readonly string[] },
  signal: AbortSignal,
  use: (client: NbdClient) => Promise<T>,
): Promise<T> {
  const client = await NbdClient.connect(address, { exportName, contexts, signal });
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}
