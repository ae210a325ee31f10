import { realpath } from 'node:fs/promises';
import type { Machine } from '../../core/disk.js';
import { eachDisk } from '../../flow/all-of.js';
import type { Unwind } from '../../flow/unwind.js';
import { imageFile } from '../../qemu-tools/image-file.js';
import { lockVm } from '../../repository/lock.js';
import type { NamedImage } from '../address.js';
import type { Backend } from '../backend.js';
import { imagesBackend } from '../images/backend.js';
import { guessFormat, offlineSource } from '../images/source.js';

export interface ImagesAccess {
  readonly images: readonly NamedImage[];
  readonly breakLock: boolean;
  readonly purpose: string;
  readonly signal: AbortSignal;
}

/** `--offline`: the disks of a VM that is off and that nobody else knows. */
export async function openOfflineBackend(access: ImagesAccess, unwind: Unwind): Promise<Backend> {
  const { images, breakLock, purpose } = access;
  const signals: AbortSignal[] = [];
  const keys = await Promise.all(
    images.map(async ({ path }) => {
      await imageFile({ path, format: 'raw' });
      return `image ${await realpath(path)}`;
    }),
  );
  // In one order, whatever order they were named in.
  for (const key of [...new Set(keys)].sort()) {
    const lock = await lockVm(key, { breakLock, purpose });
    unwind.defer(() => lock.release());
    signals.push(lock.signal);
  }
  const signal = AbortSignal.any(signals);
  const disks = await eachDisk(images, async ({ name, path, format }) =>
    offlineSource(
      {
        ...{ name, named: true, cannotTrack: null },
        image: await imageFile({ path, format: format ?? (await guessFormat(path)) }),
      },
      AbortSignal.any([signal, access.signal]),
    ),
  );
  return imagesBackend({
    state: {
      ...{ machine: NOBODY, status: 'off', running: false, migration: null, inactive: false, disks },
      ...{ leftOut: [], jobs: [], iothread: null, passedThrough: [], ownNodes: [], ownExports: [] },
    },
    signal,
    subject: images.map(({ path }) => path).join(', '),
    ...{ consistency: 'offline', unclean: null, definition: null, namedByCatalog: true },
    unlocked: [],
    imageOf: ({ file: path, format }) => imageFile({ path, format }),
    instead: 'back the VM up while it runs (--socket)',
  });
}

const NOBODY: Machine = { name: null, uuid: null, qemuVersion: 'unknown', type: null, memory: null, cpus: null };
