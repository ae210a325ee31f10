import { createHash } from 'node:crypto';
import { open, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isSocketPath } from '../../core/socket-path.js';
import { virshCommand } from '../../core/virsh-hint.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { describeOwner, inspectProcess, judgeOwner, parseOwner, thisProcess } from '../../host/lock-owner.js';
import { within } from '../../host/within.js';
import { listDomains } from '../../libvirt/domain.js';
import { DomainNotFound, LibvirtUnreachable, VirshError } from '../../libvirt/errors.js';
import { createHeld } from '../../libvirt/held-domain.js';
import { hostOf, requireThisHost } from '../../libvirt/host.js';
import { restoredDomain, type RestoredImage } from '../../libvirt/restored-domain.js';
import { throwawayDomain, type ThrowawayDefinition } from '../../libvirt/throwaway-domain.js';
import { TPM_STATE } from '../../libvirt/tpm-state.js';
import { openVirsh, type Virsh } from '../../libvirt/virsh.js';
import { attribute, find, parseXml, textAt } from '../../libvirt/xml.js';
import { type DefinitionSource, mediaThere, readDefinition, writeTpmState } from '../../machine/domain-definition.js';
import { giveToQemu } from '../../machine/give-to-qemu.js';
import { logSerialPort } from './serial-socket.js';
import type { Picture, PreparedMachine, TrialMachine, TrialParts } from './trial-machine.js';
import { MOST_SERIAL } from './watch-appetite.js';

/** Milliseconds that the loss of libvirt may be heard after what comes of it. */
const LOST_MS = 2_000;
const POLL_MS = 500;

interface Trial extends TrialParts {
  readonly virsh: Virsh;
  /** One for each target: what a run leaves that was killed, the next one finds. */
  readonly uuid: string;
  readonly name: string;
}

/** The machine of a point of a libvirt domain: a domain that libvirt ends with this process, beside the original. */
export async function prepareDomain(parts: TrialParts): Promise<PreparedMachine> {
  const { opened, folder, bytes, trial, unwind, target, run } = parts;
  if (trial.more.length > 0) {
    throw new QmpBackupError('usage', `${opened.name} is of a libvirt domain, which takes no arguments for QEMU`, {
      hint: 'libvirt starts it by its definition. To change that: qmpbackup boot --name TRIAL, then virsh edit',
    });
  }
  const { virsh, close } = openVirsh(trial.connect ?? undefined);
  unwind.defer(close);
  requireThisHost(await hostOf(virsh), 'the domain would read its disks from files that are here');
  const uuid = uuidFor(opened.catalog.targetId);
  const all: Trial = { ...parts, virsh, uuid, name: `qmpbackup-verify-${uuid.slice(0, 8)}` };
  await endEarlier(all);
  const { point, name: called } = opened;
  const source = await readDefinition(
    target,
    { point, called },
    { define: true, name: all.name, connect: trial.connect },
    run.warn,
  );
  if (!source) throw new Error('a definition that was asked for is there, or refused');
  const sockets = socketsIn(folder);
  await logSerialPort(sockets.serial, { log: parts.serialLog, mostBytes: MOST_SERIAL }, unwind);
  await bytes.serveNbd(sockets.disks);
  const definition = await define(all, source, sockets);
  return { hasAgent: definition.hasAgent, start: () => startDomain(all, definition) };
}

/** By SHA-256, in the form of a UUID that somebody has made up. */
function uuidFor(targetId: string): string {
  const hash = createHash('sha256').update(`verify --boot ${targetId}`).digest('hex');
  return [
    hash.slice(0, 8),
    hash.slice(8, 12),
    `8${hash.slice(13, 16)}`,
    `a${hash.slice(17, 20)}`,
    hash.slice(20, 32),
  ].join('-');
}

interface Sockets {
  readonly disks: string;
  readonly serial: string;
}

function socketsIn(folder: string): Sockets {
  const sockets = { disks: join(folder, 'disks.sock'), serial: join(folder, 'serial.sock') };
  if (isSocketPath(sockets.serial)) return sockets;
  throw new QmpBackupError('unsafe', `the path of a socket would be too long: ${sockets.serial}`, {
    hint: 'Set TMPDIR to a folder with a shorter path.',
  });
}

/** libvirt ends such a domain with its run, unless it was killed itself. */
async function endEarlier({ virsh, uuid, name, run }: Trial): Promise<void> {
  if (!(await listDomains(virsh)).some((each) => each.uuid === uuid)) return;
  const owner = parseOwner(
    textAt(parseXml(await virsh('dumpxml', [], { domain: uuid }), 'domain'), 'description') ?? '',
  );
  const fate = owner && judgeOwner(owner, thisProcess('look'), inspectProcess);
  if (fate === 'dead' || run.options.breakLock) return destroy(virsh, uuid);
  const who = owner ? describeOwner(owner) : 'nobody knows whose it is';
  throw new QmpBackupError('locked', `there is a domain ${name} of this target: ${who}`, {
    hint: `Wait until that has ended. Where it surely has: ${virshCommand(virsh.uri ?? null, 'destroy', uuid)}`,
  });
}

/** How long a libvirt may be away that was killed, and is started again. */
const AWAY_MS = 15_000;

async function destroy(virsh: Virsh, uuid: string): Promise<void> {
  for (const until = performance.now() + AWAY_MS; ; await sleep(POLL_MS)) {
    try {
      await virsh('destroy', [], { domain: uuid });
      return;
    } catch (error) {
      // It has ended by itself.
      if (error instanceof DomainNotFound) return;
      if (!(error instanceof LibvirtUnreachable) || performance.now() > until) throw error;
    }
  }
}

// --- its definition --------------------------------------------------------------------------------------------------

interface Definition extends ThrowawayDefinition {
  readonly sockets: Sockets;
  readonly nvram: string | null;
  readonly tpm: DefinitionSource['tpm'];
}

async function define(
  { opened, folder, overlays, trial, uuid, what }: Trial,
  { name, recorded, nvram: variables, tpm }: DefinitionSource,
  sockets: Sockets,
): Promise<Definition> {
  const disks = new Map(
    opened.disks.map(({ disk, entry }): [string, RestoredImage] => [
      entry.source.device ?? disk,
      {
        ...{ path: overlays.get(disk)?.path ?? '', format: 'qcow2', isDevice: false },
        below: { socket: sockets.disks, name: disk },
      },
    ]),
  );
  // libvirt makes them from the template where they are not there, and would leave them in a folder of its own.
  const nvram = variables !== null || hasVariables(recorded.inactive) ? join(folder, 'variables.fd') : null;
  if (nvram !== null && variables !== null) await writeFile(nvram, variables, { flag: 'wx', mode: 0o600 });
  const { xml } = restoredDomain(recorded, { name, newUuid: null, disks, nvram, media: await mediaThere(recorded) });
  const throwaway = throwawayDomain(xml, {
    ...{ uuid, description: JSON.stringify(thisProcess(what)), disks: new Set(disks.keys()) },
    ...{ serialSocket: sockets.serial, agent: trial.agent },
  });
  return { ...throwaway, sockets, nvram: variables === null ? null : nvram, tpm };
}

function hasVariables(xml: string): boolean {
  const os = find(parseXml(xml, 'domain'), 'os');
  return find(os, 'nvram') !== undefined || attribute(os, 'firmware') === 'efi';
}

// --- its life --------------------------------------------------------------------------------------------------------

async function startDomain(trial: Trial, { xml, type, sockets, nvram, tpm }: Definition): Promise<TrialMachine> {
  const { virsh, uuid, folder, overlays, run, unwind } = trial;
  const { signal } = run;
  const files = [sockets.disks, sockets.serial, ...[...overlays.values()].map(({ path }) => path)];
  await giveToQemu(virsh, {
    ...{ type, files: nvram === null ? files : [...files, nvram] },
    folders: [folder, join(folder, 'disks')],
  });
  if (tpm.length > 0) await placeState(trial, tpm);
  const file = join(folder, 'domain.xml');
  await writeFile(file, xml, { flag: 'wx', mode: 0o600 });
  const held = await created(virsh, file, signal);
  unwind.defer(() => held.close());
  unwind.defer(() => destroy(virsh, uuid));
  let lost: string | undefined;
  const died = held.lost.then((words): never => {
    throw lostLibvirt((lost = words));
  });
  // Where nobody waits for that any more it is no failure.
  died.catch(() => undefined);
  const over = async (): Promise<string | null> => {
    const state = await stateOf(virsh, uuid);
    if (lost !== undefined || (state === null && (await within(LOST_MS, held.lost)) !== undefined)) await died;
    if (state === null) return 'its domain has ended';
    return /^(running|paused \((?:user|starting up|booted)\)|idle|pmsuspended)/.test(state)
      ? null
      : `its guest is no longer at work: libvirt calls it ${state}`;
  };
  return {
    ...{ died, over, askAgent: (ms) => askAgent(trial, ms) },
    takePicture: () => takePicture(virsh, uuid, join(folder, 'screen')),
  };
}

async function created(virsh: Virsh, file: string, signal: AbortSignal) {
  try {
    return await createHeld(virsh.uri, file, signal);
  } catch (error) {
    if (!(error instanceof VirshError)) throw error;
    const words = error.words.replace(`Failed to create domain from ${file}; `, '');
    throw new QmpBackupError('failed', `libvirt does not start the domain: ${words}`, {
      cause: error,
      hint: 'This says nothing of the point. See what it asks of this host: qmpbackup boot --name TRIAL, then virsh edit',
    });
  }
}

function lostLibvirt(words: string): QmpBackupError {
  return new QmpBackupError('failed', `the connection to libvirt was lost, with which the VM ends: ${words}`, {
    hint: 'This says nothing of the point. Run it again: a VM that is left is ended first.',
  });
}

/** Also what a killed run has put there; libvirt removes it with the domain. */
async function placeState({ uuid }: Trial, tpm: DefinitionSource['tpm']): Promise<void> {
  const state = join(TPM_STATE, uuid);
  await rm(state, { recursive: true, force: true });
  await writeTpmState(state, tpm);
}

/** `running (booted)`; null where it has ended. */
async function stateOf(virsh: Virsh, uuid: string): Promise<string | null> {
  try {
    return (await virsh('domstate', ['--reason'], { domain: uuid })).trim();
  } catch (error) {
    if (error instanceof DomainNotFound) return null;
    throw error;
  }
}

async function askAgent({ virsh, uuid, run: { signal } }: Trial, ms: number): Promise<true | string> {
  try {
    const seconds = `${Math.max(1, Math.ceil(ms / 1000))}`;
    await virsh('qemu-agent-command', ['--timeout', seconds, '{"execute":"guest-ping"}'], { domain: uuid });
    return true;
  } catch (error) {
    if (!(error instanceof VirshError) && !(error instanceof DomainNotFound)) throw error;
    await sleep(Math.min(ms, POLL_MS), undefined, { signal }).catch(() => signal.throwIfAborted());
    return 'its guest agent did not answer';
  }
}

async function takePicture(virsh: Virsh, uuid: string, path: string): Promise<Picture> {
  try {
    await virsh('screenshot', ['--file', path], { domain: uuid });
    return { path: await namedByFormat(path) };
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return { why: `there is no picture of its screen: ${messageOf(error)}` };
  }
}

async function namedByFormat(path: string): Promise<string> {
  const picture = await open(path, 'r');
  let isPng: boolean;
  try {
    const { buffer } = await picture.read(Buffer.alloc(4), 0, 4, 0);
    isPng = buffer.toString('latin1', 1) === 'PNG';
  } finally {
    await picture.close();
  }
  const named = `${path}.${isPng ? 'png' : 'ppm'}`;
  await rename(path, named);
  return named;
}
