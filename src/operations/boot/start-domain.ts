import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { virshCommand } from '../../core/virsh-hint.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { Unwind } from '../../flow/unwind.js';
import { isThere } from '../../host/is-there.js';
import { isSocketPath } from '../../core/socket-path.js';
import { type DiskAbove, withBelow } from '../../libvirt/disk-above.js';
import { dumpDefinition, listDomains } from '../../libvirt/domain.js';
import { isOutcomeUnknown, VirshError } from '../../libvirt/errors.js';
import type { RestoredImage } from '../../libvirt/restored-domain.js';
import type { Virsh } from '../../libvirt/virsh.js';
import { attribute, parseXml } from '../../libvirt/xml.js';
import { placeTpmState, refuseTakenDomain } from '../../machine/define-domain.js';
import {
  type DefinitionSource,
  definitionPaths,
  readDefinition,
  removeDefinition,
  writeDefinition,
} from '../../machine/domain-definition.js';
import { giveToQemu } from '../../machine/give-to-qemu.js';
import { openForLong } from '../../repository/open-for-long.js';
import { type OpenPoint, openPoint } from '../../repository/open-point.js';
import { pointOfOverlays, prepareOverlays } from '../../repository/overlays.js';
import { type Launcher, startLauncher } from '../../storage-daemon/launcher.js';
import { type OpenBytes, openBytes } from '../../storage-daemon/open-bytes.js';
import type { BootRun } from './boot-run.js';
import { type DomainRecord, writeDomainRecord } from './domain-record.js';
import { letGoOfDaemons } from './let-go.js';
import { refuseUnlinked } from './refuse-unheard.js';
import { leansByHeader } from './stands-alone.js';

/** Where the backup is served for the domain: a place that its definition can go on naming. */
const SOCKET = 'backup.sock';
const LOG = 'storage-daemon.log';

export interface DomainStart extends Pick<BootRun, 'target' | 'folder' | 'options' | 'context' | 'warn'> {
  readonly virsh: Virsh;
  /** Of the domain that was started from here before. It is off now. */
  readonly before: DomainRecord | undefined;
}

/** @throws QmpBackupError `unsafe` where its path would be too long */
export function socketIn(folder: string): string {
  const socket = join(folder, SOCKET);
  if (isSocketPath(socket)) return socket;
  throw new QmpBackupError('unsafe', `the path of a socket would be too long: ${socket}`, {
    hint: 'Choose a folder with a shorter path.',
  });
}

/**
 * Has libvirt define the domain of a point, unless it is defined, and start it. Where that rejects, the overlays stay, and the
 * domain where it was defined; where it resolves, the daemons are kept by a process that goes on until the domain has left them.
 */
export async function startDomain(start: DomainStart): Promise<DomainRecord> {
  const { folder, target, before } = start;
  socketIn(folder);
  if (before?.held) await letGoOfDaemons(target, before.held, socketIn(folder));
  const { record, unknown } = await undoneOnFailure((undo) => startWith(start, undo));
  if (unknown) throw unknown;
  return record;
}

async function undoneOnFailure<T>(body: (undo: Unwind) => Promise<T>): Promise<T> {
  const undo = new Unwind();
  try {
    return await body(undo);
  } catch (error) {
    // What the run has failed of is what counts.
    await undo.run().catch(() => undefined);
    throw error;
  }
}

interface Started {
  readonly record: DomainRecord;
  /** libvirt may yet start it: the keeper waits for that. */
  readonly unknown?: Error;
}

async function startWith(start: DomainStart, undo: Unwind): Promise<Started> {
  const { virsh, target, folder, before, context } = start;
  const { signal } = context;
  const fresh = await sourceOfNew(start);
  if (before && fresh === null) refuseUnlinked(before, start.options, virsh.uri ?? null);
  const isOurs = before !== undefined || (await pointOfOverlays(folder)) !== undefined;
  const alone = before !== undefined && (await leaning(before.disks)).size === 0;
  const held = alone ? null : await holdPoint(start, undo);
  const disks = held?.disks ?? before?.disks ?? [];
  const { opened } = held ?? {};
  const above = await disksAbove(disks, socketIn(folder));
  const kept = held && { owner: held.launcher.record(`boot of ${held.opened.name}`), daemons: [...held.bytes.folders] };
  const about = opened
    ? { target, targetId: opened.catalog.targetId, point: { id: opened.point.id, name: opened.name } }
    : before;
  if (!about) throw new Error('a folder without a record has no overlays that stand alone');
  const { connect } = start.options;
  const common = {
    ...{ target: about.target, targetId: about.targetId, point: about.point, disks: [...disks], held: kept },
    connect: connect ?? before?.connect ?? null,
  };
  const domain = await findOrDefine(start, { fresh, above, isOurs }, (made) =>
    writeDomainRecord(folder, { ...common, ...made }),
  );
  const record = { schema: 1 as const, ...common, ...domain };
  await writeDomainRecord(folder, record);
  if (held) await giveDisks(start, record);
  signal.throwIfAborted();
  await held?.launcher.keep(socketIn(folder));
  try {
    await virsh('start', [], { domain: record.domain.uuid });
  } catch (error) {
    if (!isOutcomeUnknown(error)) throw notStarted(error, start, record);
    await leave(held);
    return { record, unknown: error as Error };
  }
  await leave(held);
  return { record };
}

interface HeldPoint {
  readonly launcher: Launcher;
  readonly opened: OpenPoint;
  readonly bytes: OpenBytes;
  readonly disks: DomainRecord['disks'];
}

/** Opened under a mark of the keeper's, and served on the socket. */
async function holdPoint(
  { target, folder, options, context, warn, virsh, before }: DomainStart,
  undo: Unwind,
): Promise<HeldPoint> {
  const { signal } = context;
  const { breakLock, name } = options;
  const launcher = await startLauncher(join(folder, LOG), `boot of a domain into ${folder}`);
  undo.defer(() => launcher.kill());
  const asked = options.asked ?? { point: await pointOfOverlays(folder) };
  const release = ({ catalog }: OpenPoint): string => {
    const domain = before?.domain.name ?? name ?? catalog.vm.name ?? 'NAME';
    return `end the domain (${virshCommand(virsh.uri ?? null, 'shutdown', domain)}), or free it by boot --stream`;
  };
  const opened = await openForLong(
    asked,
    { ...{ target, verb: 'boot', ownerOf: launcher.record, release }, ...{ breakLock, signal, warn } },
    undo,
  );
  const overlays = await prepareOverlays(folder, opened, { mayStandAlone: true });
  const disks = opened.disks.map(({ disk, entry }) => {
    const overlay = overlays.get(disk);
    return { disk, target: entry.source.device ?? disk, image: overlay?.path ?? '' };
  });
  const leaningOnes = opened.disks.filter(({ disk }) => !overlays.get(disk)?.standsAlone);
  const chains = leaningOnes.map(({ disk, chain }) => ({ disk, paths: chain.map(({ path }) => path) }));
  const bytes = await openBytes(chains, { what: `boot of ${opened.name}`, owner: launcher, signal });
  undo.defer(() => bytes.close());
  await rm(socketIn(folder), { force: true });
  undo.defer(() => rm(socketIn(folder), { force: true }));
  await bytes.serveNbd(socketIn(folder));
  return { launcher, opened, bytes, disks };
}

/** They are no longer ours: the keeper's, from now on. */
async function leave(held: HeldPoint | null): Promise<void> {
  await held?.bytes.leave();
  held?.launcher.leave();
}

/** Disk ids whose image has something below it. */
async function leaning(disks: DomainRecord['disks']): Promise<ReadonlySet<string>> {
  const found = new Set<string>();
  for (const { disk, image } of disks) if (await leansByHeader(image)) found.add(disk);
  return found;
}

async function disksAbove(disks: DomainRecord['disks'], socket: string): Promise<ReadonlyMap<string, DiskAbove>> {
  const leans = await leaning(disks);
  return new Map(
    disks.map(({ disk, target, image }) => [target, { image, below: leans.has(disk) ? { socket, name: disk } : null }]),
  );
}

// --- the definition --------------------------------------------------------------------------------------------------

interface Defining {
  /** Null where the domain is defined. */
  readonly fresh: DefinitionSource | null;
  readonly above: ReadonlyMap<string, DiskAbove>;
  /** The folder had overlays already: what else is in it by our names is left of a run that was killed. */
  readonly isOurs: boolean;
}

type Made = Pick<DomainRecord, 'domain' | 'autostart' | 'unlinked'>;

/**
 * What the domain is defined by, read before anything is made; null where it is defined already.
 *
 * @throws QmpBackupError `unsafe` for a name or UUID that another domain has
 */
async function sourceOfNew(start: DomainStart): Promise<DefinitionSource | null> {
  const { virsh, target, folder, options, before } = start;
  if (before && (await listDomains(virsh)).some(({ uuid }) => uuid === before.domain.uuid)) return null;
  const asked = options.asked ?? { point: before?.point.id ?? (await pointOfOverlays(folder)) };
  const source = await sourceOf(start, await openPoint(target, asked, { look: 'catalog' }));
  await refuseTakenDomain(virsh, source);
  return source;
}

/** The domain with what its disks are above now. `remember` comes before it is defined. */
async function findOrDefine(
  start: DomainStart,
  { fresh, ...defining }: Defining,
  remember: (made: Made) => Promise<void>,
): Promise<Made> {
  const { virsh, before, folder } = start;
  if (fresh) return defineNew(start, { ...defining, source: fresh }, remember);
  if (!before) throw new Error('only a domain that was recorded can be defined already');
  const { domain, autostart, unlinked } = before;
  const edited = withBelow(await dumpDefinition(virsh, domain.uuid, { secure: true }), defining.above);
  if (edited.others.length > 0) {
    const words = `the domain ${domain.name} does not have the disks in ${folder}: ${edited.others.join(', ')}`;
    throw new QmpBackupError('unsafe', words, {
      hint: 'Its definition was changed. Start it by virsh, or choose another folder.',
    });
  }
  if (edited.changed) await virsh('define', [], { documents: { '--file': edited.xml } });
  return { domain, autostart, unlinked };
}

interface DefiningNew extends Omit<Defining, 'fresh'> {
  readonly source: DefinitionSource;
}

async function defineNew(
  start: DomainStart,
  { source, above, isOurs }: DefiningNew,
  remember: (made: Made) => Promise<void>,
): Promise<Made> {
  const { virsh, folder, options, context, warn, before } = start;
  const paths = definitionPaths(folder, source);
  // The guest's own variables of before are newer than those of the point.
  const keepsNvram = before !== undefined && paths.nvram !== null && (await isThere(paths.nvram));
  if (!isOurs) for (const path of [paths.xml, paths.nvram, paths.tpm]) if (path !== null) await refuseOthers(path);
  await removeDefinition(folder, source, { nvram: !keepsNvram });
  const disks = new Map(
    [...above].map(([at, { image, below }]): [string, RestoredImage] => [
      at,
      { path: image, format: 'qcow2', isDevice: false, below },
    ]),
  );
  // They stay once it is defined, whatever becomes of its start.
  return undoneOnFailure(async (undo) => {
    const written = await writeDefinition(
      keepsNvram ? { ...source, nvram: null } : source,
      paths,
      { disks, unlinked: options.network === 'none' },
      undo,
    );
    written.notes.forEach((what) => context.report({ kind: 'differs', what }));
    const made = {
      domain: { uuid: written.uuid, name: written.name },
      autostart: (source.autostart ?? false) && source.newUuid === null,
      unlinked: options.network === 'none',
    };
    await remember(made);
    try {
      await virsh('define', ['--file', written.xml]);
    } catch (error) {
      const why = error instanceof VirshError ? error.words : messageOf(error);
      throw new QmpBackupError('failed', `libvirt does not define the domain ${written.name}: ${why}`, {
        cause: error,
      });
    }
    if (source.tpm.length > 0) await placeTpmState(source, written, warn);
    return made;
  });
}

async function refuseOthers(path: string): Promise<void> {
  if (!(await isThere(path))) return;
  throw new QmpBackupError('unsafe', `${path} is there already, and not replaced`, { hint: 'Choose another folder.' });
}

async function sourceOf(
  { target, options, warn, before }: DomainStart,
  { point, name: called }: OpenPoint,
): Promise<DefinitionSource> {
  const name = before?.domain.name ?? options.name;
  const source = await readDefinition(
    target,
    { point, called },
    { define: true, name, connect: options.connect },
    warn,
  );
  if (!source) throw new Error('a definition that was asked for is there, or refused');
  if (!before) return source;
  return { ...source, newUuid: before.domain.uuid === source.uuid ? null : before.domain.uuid };
}

// --- its start -------------------------------------------------------------------------------------------------------

async function giveDisks({ virsh, folder }: DomainStart, { domain, disks }: DomainRecord): Promise<void> {
  const type = attribute(parseXml(await dumpDefinition(virsh, domain.uuid), 'domain'), 'type') ?? 'kvm';
  const files = [socketIn(folder), ...disks.map(({ image }) => image)];
  await giveToQemu(virsh, { type, files, folders: [folder] });
}

function notStarted(error: unknown, { virsh }: DomainStart, { domain }: DomainRecord): Error {
  if (!(error instanceof VirshError)) return error as Error;
  const uri = virsh.uri ?? null;
  return new QmpBackupError('failed', `libvirt does not start the domain ${domain.name}: ${error.words}`, {
    cause: error,
    hint: `It stays defined. Change it (${virshCommand(uri, 'edit', domain.uuid)}) and run this again, or remove it: ${virshCommand(uri, 'undefine', domain.uuid)}`,
  });
}
