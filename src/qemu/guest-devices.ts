import { type GuestDevice, isPersistentMemory, type MemoryFile } from '../core/guest-devices.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { QmpCommandError } from '../qmp/errors.js';

/** With an id, and without one. */
const CONTAINERS = ['/machine/peripheral', '/machine/peripheral-anon'] as const;

/** The devices that the command line, or a later `device_add`, has given the guest. */
export async function guestDevices(client: QmpClient): Promise<readonly GuestDevice[]> {
  const lists = await Promise.all(
    CONTAINERS.map(async (container) =>
      (await run(client, 'qom-list', { path: container })).flatMap(({ name, type }): GuestDevice[] => {
        const [, model] = /^child<(.+)>$/.exec(type) ?? [];
        const path = `${container}/${name}`;
        return model === undefined ? [] : [{ name: container === CONTAINERS[0] ? name : path, path, type: model }];
      }),
    ),
  );
  return lists.flat();
}

/**
 * The SCSI device that QEMU itself makes for a `usb-storage`, of which `query-block` alone tells: for `/dev/sg*` it makes a
 * `scsi-generic`.
 */
export async function madeByQemu(
  client: QmpClient,
  qdevs: readonly (string | undefined)[],
): Promise<readonly GuestDevice[]> {
  const legacy = qdevs.filter((qdev) => qdev !== undefined && /\/legacy\[\d+\]$/.test(qdev));
  const found = await Promise.all(
    legacy.map(async (path = ''): Promise<readonly GuestDevice[]> => {
      try {
        const type = await run(client, 'qom-get', { path, property: 'type' });
        return typeof type === 'string' ? [{ name: path, path, type }] : [];
      } catch (error) {
        // It was unplugged meanwhile.
        if (error instanceof QmpCommandError) return [];
        throw error;
      }
    }),
  );
  return found.flat();
}

/** The files behind persistent memory, by the path of its device. Asked only where there is any. */
export async function memoryFiles(
  client: QmpClient,
  devices: readonly GuestDevice[],
): Promise<ReadonlyMap<string, MemoryFile>> {
  const found = await Promise.all(
    devices.filter(isPersistentMemory).map(async ({ path }) => [path, await memoryFile(client, path)] as const),
  );
  return new Map(found.flatMap(([path, file]) => (file ? [[path, file] as const] : [])));
}

async function memoryFile(client: QmpClient, device: string): Promise<MemoryFile | undefined> {
  const get = (path: string, property: string): Promise<unknown> => run(client, 'qom-get', { path, property });
  try {
    const memory = await get(device, 'memdev');
    if (typeof memory !== 'string' || (await get(memory, 'type')) !== 'memory-backend-file') return undefined;
    const [file, shared, readOnly] = await Promise.all(
      ['mem-path', 'share', 'readonly'].map((property) => get(memory, property)),
    );
    return typeof file === 'string' ? { file, kept: shared === true && readOnly !== true } : undefined;
  } catch (error) {
    // It was unplugged meanwhile.
    if (error instanceof QmpCommandError) return undefined;
    throw error;
  }
}
