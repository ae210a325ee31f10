import { randomUUID } from 'node:crypto';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { folderName } from '../core/names.js';
import type { DefinitionFile, Point } from '../core/point.js';
import { type Warn, warning } from '../core/warning.js';
import { messageOf, QmpBackupError } from '../errors.js';
import type { Unwind } from '../flow/unwind.js';
import { fileError } from '../host/file-errors.js';
import { isBehindLinks } from '../host/is-there.js';
import { giveTo } from '../host/named-owner.js';
import type { Owner } from '../host/ownership.js';
import { parseDomain } from '../libvirt/domain-xml.js';
import { mediaOf, type RecordedDomain, restoredDomain, type RestoredDomain } from '../libvirt/restored-domain.js';
import { readKept, writeNew } from '../repository/definition-files.js';

/**
 * The definition of a restored domain (decision 12): its XML with the new places of its disks, its UEFI variables and the
 * state of its TPM, all beside its disks.
 */
export interface DefinitionRequest {
  /** Also define it in libvirt. */
  readonly define: boolean;
  /** For a domain beside the original; null is the original's own name. */
  readonly name: string | null;
  /** URI for libvirt; null is virsh's own default. */
  readonly connect: string | null;
}

/** What a point tells of its domain, read and proved before anything is written. */
export interface DefinitionSource {
  readonly name: string;
  readonly uuid: string;
  /** It becomes a domain beside the original, with this UUID. */
  readonly newUuid: string | null;
  readonly recorded: RecordedDomain;
  readonly nvram: Buffer | null;
  readonly tpm: readonly { readonly path: string; readonly bytes: Buffer }[];
  readonly autostart: boolean | null;
}

export interface DefinitionPaths {
  readonly xml: string;
  readonly nvram: string | null;
  /** A folder as libvirt's own for the state of a domain's TPM. */
  readonly tpm: string | null;
}

export interface WrittenDefinition extends DefinitionPaths {
  readonly name: string;
  readonly uuid: string;
  /** What is different from the recorded domain beside the places, for people. */
  readonly notes: readonly string[];
}

/**
 * Null where the point has no definition, or a damaged one that was not asked for.
 *
 * @throws QmpBackupError `usage` for a definition that was asked for and is not there; `unsafe` for one that is damaged
 */
export async function readDefinition(
  target: string,
  { point, called }: { readonly point: Point | null; readonly called: string },
  request: DefinitionRequest,
  warn: Warn,
): Promise<DefinitionSource | null> {
  const { define, name } = request;
  const definition = point?.definition;
  if (!definition?.files.some(({ kind }) => kind === 'domain')) {
    if (define || name !== null) throw withoutDefinition(called, define);
    return null;
  }
  if (name !== null) refuseOddName(name);
  try {
    const kept = (kind: DefinitionFile['kind']): readonly DefinitionFile[] =>
      definition.files.filter((each) => each.kind === kind);
    const read = (kind: DefinitionFile['kind']): Promise<Buffer[]> =>
      Promise.all(kept(kind).map((each) => readKept(target, each)));
    const [[inactive = ''], [live], [nvram], tpm] = await Promise.all([
      read('domain').then(texts),
      read('live').then(texts),
      read('nvram'),
      read('tpm'),
    ]);
    const original = parseDomain(inactive);
    for (const what of definition.missing) warn(warning('definition-incomplete', `${called} does not have ${what}`));
    return {
      name: name ?? original.name,
      uuid: original.uuid,
      newUuid: name === null || name === original.name ? null : randomUUID(),
      recorded: { inactive, live: live ?? null },
      nvram: nvram ?? null,
      tpm: kept('tpm').flatMap(({ path }, index) => {
        const bytes = tpm[index];
        return path === null || bytes === undefined ? [] : [{ path, bytes }];
      }),
      autostart: definition.autostart,
    };
  } catch (error) {
    if (define || name !== null) throw error;
    warn(warning('definition-lost', `the definition of the domain is not restored: ${messageOf(error)}`));
    return null;
  }
}

function texts(files: readonly Buffer[]): readonly string[] {
  return files.map((bytes) => bytes.toString('utf8'));
}

function withoutDefinition(called: string, define: boolean): QmpBackupError {
  return new QmpBackupError(
    'usage',
    `${called} has no definition of a domain, so ${define ? '--define' : '--name'} has nothing to work on`,
    {
      hint: 'Only backups by --domain keep one. Restore the disks without it; machine.json tells how the machine was.',
    },
  );
}

function refuseOddName(name: string): void {
  if (name.trim() !== '' && !/[/\n]/.test(name)) return;
  throw new QmpBackupError('usage', `${JSON.stringify(name)} is not a name that libvirt gives a domain`, {
    hint: 'It has neither slashes nor line breaks, and is not empty.',
  });
}

/** What is added to it shall fit into a name, too. */
const NAME_BYTES = 240;

/** Where it goes in the folder of the disks. */
export function definitionPaths(
  output: string,
  { name, nvram, tpm }: Pick<DefinitionSource, 'name' | 'nvram' | 'tpm'>,
): DefinitionPaths {
  const base = join(output, folderName(name, NAME_BYTES));
  return {
    xml: `${base}.xml`,
    nvram: nvram === null ? null : `${base}.nvram`,
    tpm: tpm.length === 0 ? null : `${base}.tpm`,
  };
}

/** Takes away what a killed run has written of it. */
export async function removeDefinition(
  output: string,
  definition: DefinitionSource,
  also: { readonly nvram: boolean } = { nvram: true },
): Promise<void> {
  const { xml, nvram, tpm } = definitionPaths(output, definition);
  for (const path of [xml, also.nvram ? nvram : null]) if (path !== null) await rm(path, { force: true });
  if (tpm !== null) await rm(tpm, { recursive: true, force: true });
}

export interface DefinitionPlaces extends Pick<RestoredDomain, 'disks' | 'unlinked'> {
  /** To whom the files are given. */
  readonly owner?: Owner | undefined;
}

/** Nothing may be at those paths yet. The XML comes last: where it is, all else is. */
export async function writeDefinition(
  source: DefinitionSource,
  paths: DefinitionPaths,
  { disks, unlinked, owner }: DefinitionPlaces,
  undo: Unwind,
): Promise<WrittenDefinition> {
  const { name, uuid, newUuid, recorded, nvram, tpm } = source;
  const { xml, notes } = restoredDomain(recorded, {
    ...{ name, newUuid, nvram: paths.nvram, disks, unlinked },
    media: await mediaThere(recorded),
  });
  if (paths.nvram !== null && nvram !== null) await made(paths.nvram, nvram, undo);
  if (paths.tpm !== null) {
    const folder = paths.tpm;
    undo.defer(() => rm(folder, { recursive: true, force: true }));
    await writeTpmState(folder, tpm);
  }
  await made(paths.xml, Buffer.from(xml), undo);
  if (owner) for (const path of [paths.xml, paths.nvram]) if (path !== null) await giveTo(path, owner);
  if (owner && paths.tpm !== null) await giveAllTo(paths.tpm, owner);
  return { ...paths, name, uuid: newUuid ?? uuid, notes };
}

/** What of the host the guest can only read, and is there. */
export async function mediaThere({ inactive }: RecordedDomain): Promise<ReadonlySet<string>> {
  const there = await Promise.all(mediaOf(inactive).map(async (path) => ((await isBehindLinks(path)) ? [path] : [])));
  return new Set(there.flat());
}

async function giveAllTo(folder: string, owner: Owner): Promise<void> {
  await giveTo(folder, owner);
  for (const each of await readdir(folder, { withFileTypes: true, recursive: true })) {
    await giveTo(join(each.parentPath, each.name), owner);
  }
}

async function made(path: string, bytes: Buffer, undo: Unwind): Promise<void> {
  undo.defer(() => rm(path, { force: true }));
  await writeNew(path, bytes);
}

/** Into a folder that is not there yet, with folders below it that only root and the emulator's user will enter. */
export async function writeTpmState(folder: string, files: DefinitionSource['tpm']): Promise<void> {
  try {
    // As libvirt makes it: whoever the emulator runs as has to get through.
    await mkdir(folder, { mode: 0o711 });
    for (const { path, bytes } of files) {
      await mkdir(dirname(join(folder, path)), { recursive: true, mode: 0o700 });
      await writeNew(join(folder, path), bytes);
    }
  } catch (error) {
    throw fileError('write', folder, error);
  }
}
