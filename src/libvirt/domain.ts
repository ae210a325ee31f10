/** What a domain is at this moment, asked of virsh with queries only: nothing here changes a domain or taints it. */
import { isOurBitmap } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import { parseBackup, type RunningBackup } from './backup-xml.js';
import { blockJobsOf } from './block-jobs.js';
import { type Checkpoint, parseCheckpoint } from './checkpoint-xml.js';
import type { DiskSize, DomainState } from './domain-state.js';
import { parseDomain } from './domain-xml.js';
import { DomainNotFound, LibvirtAnswerError, VirshError } from './errors.js';
import { type DomainJobInfo, parseJobInfo } from './job-info.js';
import type { Virsh } from './virsh.js';
import { withVolumes } from './volumes.js';

export interface ListedDomain {
  readonly uuid: string;
  readonly name: string;
}

export async function listDomains(virsh: Virsh): Promise<ListedDomain[]> {
  const text = await virsh('list', ['--all', '--uuid', '--name']);
  return text.split('\n').flatMap((line): ListedDomain[] => {
    const [, uuid, name] = /^([0-9a-f-]{36})\s+(.+?)\s*$/.exec(line) ?? [];
    return uuid === undefined || name === undefined ? [] : [{ uuid, name }];
  });
}

/**
 * The one domain of that name or UUID. virsh would take an id first, and give a domain called `3` to whoever is the third
 * to be started.
 *
 * @throws DomainNotFound; QmpBackupError `usage` where one domain is called by the UUID of another.
 */
export async function findDomain(virsh: Virsh, nameOrUuid: string): Promise<ListedDomain> {
  const wanted = nameOrUuid.trim();
  const found = (await listDomains(virsh)).filter(({ uuid, name }) => name === wanted || uuid === wanted.toLowerCase());
  const [domain, other] = found;
  if (!domain) throw new DomainNotFound(nameOrUuid, 'libvirt has none of that name or UUID', virsh.uri ?? null);
  if (!other) return domain;
  throw new QmpBackupError('usage', `${nameOrUuid} is the name of one domain and the UUID of another`, {
    hint: `Call them otherwise: ${found.map(({ uuid, name }) => `${uuid} is the UUID of ${name}`).join('; ')}`,
  });
}

/** What a domain will be found to have, most likely. */
export interface DomainGuess {
  readonly running: boolean;
  readonly checkpoints: readonly string[];
}

/**
 * For whoever looks at a domain soon, by the name it was given: to be asked with `findDomain`, in the same call. Null where
 * libvirt has no answer to that.
 */
export async function guessDomain(virsh: Virsh, nameOrUuid: string): Promise<DomainGuess | null> {
  try {
    const [state, checkpoints] = await Promise.all([
      virsh('domstate', [], { domain: nameOrUuid }),
      checkpointNames(virsh, nameOrUuid),
    ]);
    return { running: parseState(state).state === 'running', checkpoints };
  } catch (error) {
    if (error instanceof QmpBackupError) return null;
    throw error;
  }
}

/**
 * A domain by its UUID. Our checkpoints of a running domain say with `changedBytes` whether each bitmap is usable, where
 * the caller has the domain's lock (`sizes`): libvirtd 9.0 dies where one is deleted while it looks for that. A `guess` that
 * is right saves a call, and a wrong one changes nothing.
 *
 * @throws DomainNotFound, LibvirtUnreachable, VirshTimeout, VirshError, LibvirtAnswerError
 */
export async function inspectDomain(
  virsh: Virsh,
  uuid: string,
  { guess = null, sizes: mayAsk = true }: { readonly guess?: DomainGuess | null; readonly sizes?: boolean } = {},
): Promise<DomainState> {
  const domain = { domain: uuid };
  // All at once: each call of virsh takes longer to start than to be answered.
  const [xml, { state, reason }, sizes, names, job, guessed] = await Promise.all([
    virsh('dumpxml', [], domain),
    virsh('domstate', ['--reason'], domain).then(parseState),
    sizesOf(virsh, uuid),
    checkpointNames(virsh, uuid),
    jobOf(virsh, uuid),
    guess?.running && mayAsk ? dumpGuessed(virsh, uuid, guess.checkpoints) : new Map<string, Checkpoint>(),
  ]);
  const { definition, ...sized } = await withVolumes(virsh, parseDomain(xml), sizes);
  const sizesToo = { sizes: definition.active && mayAsk };
  const written = definition.disks.filter(({ device, source, readOnly }) => device === 'disk' && source && !readOnly);
  const [checkpoints, backup, blockJobs] = await Promise.all([
    Promise.all(
      names.map(async (name) => (definition.active && guessed.get(name)) || dumpOne(virsh, uuid, name, sizesToo)),
    ),
    job?.operation === 'backup' ? runningBackup(virsh, uuid) : null,
    blockJobsOf(virsh, uuid, sizesToo.sizes ? written.map(({ target }) => target) : []),
  ]);
  // One that has ended between the two looks, and is not somebody else's that goes on.
  const ended = job?.operation === 'backup' && backup === null;
  const last = ended ? await jobOf(virsh, uuid) : job;
  const told = { state, stateReason: reason, xml, checkpoints, job: last, backup, blockJobs };
  return { ...definition, ...sized, ...told, connect: virsh.uri ?? null };
}

/** Those of `names` that are there. */
async function dumpGuessed(
  virsh: Virsh,
  uuid: string,
  names: readonly string[],
): Promise<ReadonlyMap<string, Checkpoint>> {
  const asked = await Promise.allSettled(names.map((name) => dumpOne(virsh, uuid, name, { sizes: true })));
  return new Map(
    asked.flatMap((each) => (each.status === 'fulfilled' ? [[each.value.name, each.value] as const] : [])),
  );
}

/** The domain as it will be started next, with passwords if `secure` (a right of its own in libvirt). */
export function dumpDefinition(
  virsh: Virsh,
  uuid: string,
  options: { readonly secure?: boolean } = {},
): Promise<string> {
  return virsh('dumpxml', ['--inactive', ...(options.secure ? ['--security-info'] : [])], { domain: uuid });
}

/** What libvirt keeps of a domain for its next start. */
export interface KeptDefinition {
  readonly xml: string;
  /** Null where libvirt does not tell. */
  readonly autostart: boolean | null;
  /** Why `xml` is without its passwords, in libvirt's words; null where it has them. */
  readonly noPasswords: string | null;
}

/** With the passwords of its displays, without which a restored domain would let everybody in. */
export async function keptDefinition(virsh: Virsh, uuid: string): Promise<KeptDefinition> {
  const [definition, autostart] = await Promise.all([dumpWithPasswords(virsh, uuid), startsWithHost(virsh, uuid)]);
  return { ...definition, autostart };
}

async function dumpWithPasswords(virsh: Virsh, uuid: string): Promise<Omit<KeptDefinition, 'autostart'>> {
  try {
    return { xml: await dumpDefinition(virsh, uuid, { secure: true }), noPasswords: null };
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    return { xml: await dumpDefinition(virsh, uuid), noPasswords: error.words };
  }
}

/** Whether libvirt starts the domain with the host; null where it does not tell. */
async function startsWithHost(virsh: Virsh, uuid: string): Promise<boolean | null> {
  try {
    const [, word] = /^Autostart:\s+(\w+)$/m.exec(await virsh('dominfo', [], { domain: uuid })) ?? [];
    return word === 'enable' ? true : word === 'disable' ? false : null;
  } catch (error) {
    if (error instanceof VirshError) return null;
    throw error;
  }
}

/** A checkpoint in libvirt's own words, as `checkpoint-create --redefine` takes it. */
export function dumpCheckpoint(virsh: Virsh, uuid: string, name: string): Promise<string> {
  return virsh('checkpoint-dumpxml', ['--checkpointname', name, '--no-domain'], { domain: uuid });
}

/** `sizes` asks for `changedBytes` of ours, which only a running domain can answer. */
export async function listCheckpoints(
  virsh: Virsh,
  uuid: string,
  options: { readonly sizes: boolean },
): Promise<Checkpoint[]> {
  const names = await checkpointNames(virsh, uuid);
  return Promise.all(names.map((name) => dumpOne(virsh, uuid, name, options)));
}

async function checkpointNames(virsh: Virsh, uuid: string): Promise<readonly string[]> {
  const text = await virsh('checkpoint-list', ['--name', '--topological'], { domain: uuid });
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((name) => name !== '');
}

async function dumpOne(
  virsh: Virsh,
  uuid: string,
  name: string,
  options: { readonly sizes: boolean },
): Promise<Checkpoint> {
  const args = ['--checkpointname', name, '--no-domain'];
  const sized = options.sizes && isOurBitmap(name);
  const dump = (more: readonly string[]): Promise<string> =>
    virsh('checkpoint-dumpxml', [...args, ...more], { domain: uuid });
  if (!sized) return parseCheckpoint(await dump([]), { sized });
  try {
    return parseCheckpoint(await dump(['--size']), { sized });
  } catch (error) {
    // As where the disk was grown above an external snapshot: bitmaps of two sizes, which nothing adds up.
    if (!(error instanceof VirshError) || UNMEASURED_FOR_NOW.has(error.reason)) throw error;
    return parseCheckpoint(await dump([]), { sized, unmeasured: error.words });
  }
}

/** Why libvirt may not measure a checkpoint though nothing is wrong with its bitmaps. */
const UNMEASURED_FOR_NOW: ReadonlySet<string> = new Set(['job-active', 'no-checkpoint', 'not-running']);

/** Target by target where libvirt does not tell of all at once, as when one image of a domain that is off is gone. */
async function sizesOf(virsh: Virsh, uuid: string): Promise<Map<string, DiskSize | null>> {
  try {
    return parseSizes(await virsh('domblkinfo', ['--all'], { domain: uuid }));
  } catch (error) {
    if (!(error instanceof VirshError) || error.reason !== 'other') throw error;
  }
  const { disks } = parseDomain(await virsh('dumpxml', [], { domain: uuid }));
  const sizes = await Promise.all(disks.map(({ target }) => sizeOf(virsh, uuid, target)));
  return new Map(disks.map(({ target }, index) => [target, sizes[index] ?? null]));
}

async function sizeOf(virsh: Virsh, uuid: string, target: string): Promise<DiskSize | null> {
  try {
    const text = await virsh('domblkinfo', ['--device', target], { domain: uuid });
    const [capacity, allocation, physical] = ['Capacity', 'Allocation', 'Physical'].map(
      (key) => new RegExp(`^${key}:\\s+(\\d+)$`, 'm').exec(text)?.[1],
    );
    if (capacity === undefined) return null;
    return { capacity: Number(capacity), allocation: Number(allocation ?? 0), physical: numberOrNull(physical) };
  } catch (error) {
    if (error instanceof VirshError) return null;
    throw error;
  }
}

/** The job of the domain: null when there is none, or no QEMU that could have one. */
export async function jobOf(virsh: Virsh, uuid: string): Promise<DomainJobInfo | null> {
  for (let tries = 1; ; tries += 1) {
    try {
      const job = parseJobInfo(await virsh('domjobinfo', ['--rawstats'], { domain: uuid }));
      return job.state === 'none' ? null : job;
    } catch (error) {
      if (!(error instanceof VirshError)) throw error;
      if (error.reason === 'not-running') return null;
      // A call takes longer than a job takes to change.
      if (error.reason !== 'job-changing' || tries === 50) throw error;
    }
  }
}

/** How the last job ended; libvirt tells it until the next one begins. Null when there was none since the start. */
export async function lastJobOf(virsh: Virsh, uuid: string): Promise<DomainJobInfo | null> {
  const args = ['--completed', '--keep-completed', '--rawstats'];
  const job = parseJobInfo(await virsh('domjobinfo', args, { domain: uuid }));
  return job.state === 'none' ? null : job;
}

/**
 * Resolves when libvirt is done with whatever it is carrying out for the domain: the end of a job may be told before its
 * images are closed, and a question that QEMU itself has to answer waits for that.
 */
export async function settled(virsh: Virsh, uuid: string): Promise<void> {
  await virsh('domblkinfo', ['--all'], { domain: uuid });
}

/** The backup job that is running, or null. */
export async function runningBackup(virsh: Virsh, uuid: string): Promise<RunningBackup | null> {
  try {
    return parseBackup(await virsh('backup-dumpxml', [], { domain: uuid }));
  } catch (error) {
    if (error instanceof VirshError && (error.reason === 'no-job' || error.reason === 'not-running')) return null;
    throw error;
  }
}

/** As libvirt says it: `running`, `paused`, `shut off` … */
export async function stateNow(virsh: Virsh, uuid: string): Promise<string> {
  return parseState(await virsh('domstate', ['--reason'], { domain: uuid })).state;
}

/** `running (booted)`. */
function parseState(text: string): { readonly state: string; readonly reason: string } {
  const [, state, reason = ''] = /^(.+?)(?: \((.*)\))?$/.exec(text.trim()) ?? [];
  if (state === undefined) throw new LibvirtAnswerError('the answer of virsh domstate', text);
  return { state, reason };
}

/** A table: target, capacity, allocation, physical; `-` where there is nothing to tell. */
function parseSizes(text: string): Map<string, DiskSize | null> {
  const rows = text.split('\n').map((line) => line.trim().split(/\s+/));
  return new Map(
    rows.flatMap(([target = '', capacity = '', allocation = '', physical]): [string, DiskSize | null][] => {
      if (/^\d+$/.test(capacity)) {
        const size = { capacity: Number(capacity), allocation: Number(allocation), physical: numberOrNull(physical) };
        return [[target, size]];
      }
      return capacity === '-' ? [[target, null]] : [];
    }),
  );
}

function numberOrNull(text: string | undefined): number | null {
  return text !== undefined && /^\d+$/.test(text) ? Number(text) : null;
}
