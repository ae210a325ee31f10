/**
 * Fills a new image with what of a disk differs from the chain that it builds on. The chain is read through a storage daemon of
 * ours, as readers of points do, and proved piece by piece meanwhile: what has rotted there unnoticed is stored anew.
 */
import type { NbdSource } from '../../core/nbd-address.js';
import type { ByteRange } from '../../core/pieces.js';
import { mayHaveThreads, withHashThreads } from '../../host/hash-threads.js';
import { NbdClient } from '../../nbd/client.js';
import { ALLOCATION } from '../../nbd/meta-contexts.js';
import { pullDifferences } from '../../nbd/pull-differences.js';
import type { PullProgress } from '../../nbd/pull.js';
import { damagedAt } from '../../repository/check-file.js';
import type { OpenFile } from '../../repository/open-point.js';
import { ParentProver } from '../../repository/prove-parent.js';
import { openBytes } from '../../storage-daemon/open-bytes.js';
import { fillImage, type PullImageOptions, type PullIncrementOptions } from './pull-image.js';

export interface Difference {
  readonly source: NbdSource;
  /** The chain that the image builds on, FULL first. */
  readonly chain: readonly OpenFile[];
  /** Absolute path of an empty qcow2 image of the disk's size. Its backing link is neither followed nor changed. */
  readonly target: string;
}

export interface StoredDifference {
  /** Bytes that the image holds of the disk, those of zeros included. */
  readonly stored: number;
  /** What of the chain has rotted: what it has of the disk is in the image. In words, by file. */
  readonly healed: readonly { readonly file: string; readonly why: string }[];
}

export type DifferenceOptions = PullImageOptions &
  Pick<PullIncrementOptions, 'deadlines' | 'folder'> & {
    readonly signal: AbortSignal;
    readonly onProgress?: ((progress: PullProgress) => void) | undefined;
  };

/**
 * When it resolves the image is closed and flushed; where it rejects nobody has it open.
 *
 * @throws as `pullIncrement`; QmpBackupError `failed` in the daemon's words
 */
export async function pullDifference(
  { source, chain, target }: Difference,
  options: DifferenceOptions,
): Promise<StoredDifference> {
  const { signal, deadlines = {} } = options;
  const disk = chain.at(-1)?.entry.disk ?? '';
  return withHashing(async (hash) => {
    const bytes = await openBytes([{ disk, paths: chain.map(({ path }) => path) }], {
      what: `backup of ${disk}`,
      signal,
    });
    try {
      const prover = await ParentProver.open(chain, signal, hash);
      try {
        const connect = ({ address, exportName }: NbdSource): Promise<NbdClient> =>
          NbdClient.connect(address, { deadlines, signal, exportName, contexts: [ALLOCATION] });
        const parent = await connect({ address: await bytes.serveNbd(), exportName: disk });
        try {
          const from = await connect(source);
          try {
            const mustStore = (offset: number, length: number): Promise<readonly ByteRange[]> =>
              prover.rottenIn({ start: offset, end: offset + length });
            const read = (offset: number, into: Buffer): Promise<boolean> => prover.read(offset, into);
            let stored = 0;
            await fillImage(target, from.export.size, options, async (sink, pace) => {
              ({ stored } = await pullDifferences(from, { client: parent, read, mustStore }, sink, {
                ...options,
                ...pace,
              }));
            });
            const healed = prover.faults.map(({ file, ranges }) => ({ file, why: damagedAt({ ranges }).why }));
            return { stored, healed };
          } finally {
            await from.close();
          }
        } finally {
          await parent.close();
        }
      } finally {
        await prover.close();
      }
    } finally {
      await bytes.close();
    }
  });
}

/** Digests are made beside the comparison, where there may be threads. */
function withHashing<T>(body: (hash?: Parameters<Parameters<typeof withHashThreads>[0]>[0]) => Promise<T>): Promise<T> {
  return mayHaveThreads() ? withHashThreads(body) : body();
}
