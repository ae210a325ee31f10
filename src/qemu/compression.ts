import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';

/** The compression type that QEMU can write into a qcow2 image, by its own schema; null is its default, zlib. */
export async function compressionTypeOf(client: QmpClient): Promise<'zstd' | null> {
  const schema = await run(client, 'query-qmp-schema');
  const knowsZstd = schema.some((entry) => {
    const values = entry.members?.map(({ name }) => name) ?? [];
    // Qcow2CompressionType by its members, for QEMU does not tell the names of its types.
    return entry['meta-type'] === 'enum' && values.length === 2 && values.includes('zlib') && values.includes('zstd');
  });
  return knowsZstd ? 'zstd' : null;
}
