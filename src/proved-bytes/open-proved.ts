import type { NbdAddress } from '../core/nbd-address.js';
import { type PointFinding, refuseFindings } from '../core/point-findings.js';
import { TouchedRanges } from '../core/touched-ranges.js';
import { type Warn, warning } from '../core/warning.js';
import type { Unwind } from '../flow/unwind.js';
import { within } from '../host/within.js';
import { startRelay } from '../nbd/relay.js';
import type { SeenRequest } from '../nbd/requests.js';
import type { OpenPoint } from '../repository/open-point.js';
import { proverOf } from '../repository/prove-reads.js';
import { addressIn, type ChainOfDisk, openBytes, type OpenBytes } from '../storage-daemon/open-bytes.js';

/** The bytes of a point, opened for long, and a proof of what of them was read. */
export interface ProvedBytes extends Pick<OpenBytes, 'ended' | 'serveNbd' | 'serveFuse' | 'addWindow'> {
  /** What is wrong with what was read since it was last asked; nothing is told twice. */
  readonly prove: (signal: AbortSignal) => Promise<readonly PointFinding[]>;
  /** All is gone afterwards. Harmless once it was called. */
  readonly close: () => Promise<void>;
}

export interface ProvedOptions {
  /** What they are opened for, for people. */
  readonly what: string;
  /** Images that take what is written, by disk. */
  readonly overlays?: ReadonlyMap<string, { readonly path: string }> | undefined;
  /** Clients get them over NBD from here, with nothing between that needs an overlay or FUSE. */
  readonly plain?: boolean;
  /** False: nothing is proved. */
  readonly verify: boolean;
  readonly signal: AbortSignal;
}

/**
 * Between the chains and whoever reads them stands a relay, which sees what is asked for: a daemon holds the chains, and another
 * one, its client, has what is above them (overlays, FUSE). Closed by `unwind`.
 *
 * @throws as `openBytes`
 */
export async function openProved(point: OpenPoint, options: ProvedOptions, unwind: Unwind): Promise<ProvedBytes> {
  const { what, overlays, plain = false, verify, signal } = options;
  const chains: readonly ChainOfDisk[] = point.disks.map(({ disk, chain }) => ({
    disk,
    paths: chain.map(({ path }) => path),
  }));
  const above = chains.map((each) => ({ ...each, overlay: overlays?.get(each.disk)?.path }));
  if (!verify) {
    const bytes = await openBytes(above, { what, signal });
    unwind.defer(() => bytes.close());
    return { ...bytes, prove: () => Promise.resolve([]) };
  }
  const below = await openBytes(chains, { what, signal });
  unwind.defer(() => below.close());
  const inner = await below.serveNbd('direct');
  const reads = watchReads(point);
  const relayAt = async (at: NbdAddress): Promise<NbdAddress> => {
    const relay = await startRelay({ at, to: inner.kind === 'unix' ? inner.path : '', onRequest: reads.onRequest });
    unwind.defer(() => relay.close());
    return at;
  };
  const folder = below.folders[0] ?? '';
  const { prove } = reads;
  if (plain) {
    const serveNbd: ProvedBytes['serveNbd'] = (at) => relayAt(addressIn(folder, at ?? 'nbd'));
    return { ...below, serveNbd, prove };
  }
  const address = await relayAt(addressIn(folder, 'nbd'));
  const disks = above.map((each) => ({ ...each, paths: [], below: { address, exportName: each.disk } }));
  const top = await openBytes(disks, { what, signal });
  unwind.defer(() => top.close());
  const close = async (): Promise<void> => {
    await top.close();
    await below.close();
  };
  return { ...top, ended: Promise.race([top.ended, below.ended]), prove, close };
}

const PROVE_MS = 1_000;

/**
 * Waits for `over` while clients read, and warns of what they were given that is damaged as soon as it is seen. Then closes all, and
 * proves the rest.
 *
 * @throws QmpBackupError `damaged`, or `unsafe` for files that cannot be read any more, where anything was found
 */
export async function provingUntil<T>(bytes: ProvedBytes, over: Promise<T>, warn: Warn): Promise<T> {
  const found: PointFinding[] = [];
  // It is not given up: what was handed out is proved.
  const { signal } = new AbortController();
  const look = async (): Promise<void> => {
    for (const finding of await bytes.prove(signal)) {
      found.push(finding);
      warn(warning('read-damaged', `what was read is not what was backed up: ${finding.what}`));
    }
  };
  const ended = over.then((value) => ({ value }));
  let end = await within(PROVE_MS, ended);
  while (!end) {
    await look();
    end = await within(PROVE_MS, ended);
  }
  await bytes.close();
  await look();
  refuseFindings(found);
  return end.value;
}

function watchReads({ disks }: OpenPoint) {
  const watched = new Map(
    disks.map((opened) => {
      const { virtualSize } = opened.entry;
      const [data, tables] = [new TouchedRanges(virtualSize), new TouchedRanges(virtualSize)];
      return [opened.disk, { data, tables, prover: proverOf(opened) }];
    }),
  );
  return {
    onRequest: ({ exportName, kind, offset, length }: SeenRequest): void => {
      const disk = watched.get(exportName);
      const range = { start: offset, end: offset + length };
      if (kind === 'read') disk?.data.add(range);
      else disk?.tables.add(range);
    },
    prove: async (signal: AbortSignal): Promise<readonly PointFinding[]> => {
      const findings: PointFinding[] = [];
      for (const { data, tables, prover } of watched.values()) {
        const reads = { data: data.take(), tables: tables.take() };
        findings.push(...(await prover.prove(reads, signal)));
      }
      return findings;
    },
  };
}
