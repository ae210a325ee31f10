import { join } from 'node:path';
import { type BootCommand, commandLines } from '../../core/boot-command.js';
import { printable } from '../../core/printable.js';
import { asShellWord } from '../../core/shell-word.js';
import { Unwind } from '../../flow/unwind.js';
import { replaceFile } from '../../host/durable.js';
import { machineOf, socketsIn } from '../../machine/machine-of-point.js';
import { reachMachine } from '../../machine/reach-machine.js';
import { openForLong } from '../../repository/open-for-long.js';
import { type OpenPoint, openPoint } from '../../repository/open-point.js';
import { pointOfOverlays, prepareOverlays } from '../../repository/overlays.js';
import { type Launcher, startLauncher } from '../../storage-daemon/launcher.js';
import { openBytes } from '../../storage-daemon/open-bytes.js';
import { type BootRecord, writeBootRecord } from './boot-record.js';
import type { BootRun } from './boot-run.js';
import { standsAlone } from './stands-alone.js';

export const SCRIPT = 'start-vm.sh';
const LOG = 'qemu.log';
const SERIAL_LOG = 'serial.log';

export interface Start extends Pick<BootRun, 'target' | 'folder' | 'options' | 'context' | 'warn'> {
  /** Of the machine that ran here before. */
  readonly before: BootRecord | undefined;
}

/**
 * Starts the machine of a point. Where it rejects nothing of it is left but overlays; where it resolves the machine is a
 * process of its own, which has the point open: mark and daemons are its, and end with it.
 */
export async function startMachine(start: Start): Promise<BootRecord> {
  const { folder } = start;
  socketsIn(folder);
  const undo = new Unwind();
  try {
    const launcher = await startLauncher(join(folder, LOG), join(folder, SCRIPT));
    undo.defer(() => launcher.kill());
    return await startWith(launcher, start, undo);
  } catch (error) {
    // What the run has failed of is what counts.
    await undo.run().catch(() => undefined);
    throw error;
  }
}

async function startWith(launcher: Launcher, start: Start, undo: Unwind): Promise<BootRecord> {
  const { target, folder, options, context } = start;
  const { signal } = context;
  const opened = await openFor(launcher, start, undo);
  const overlays = await prepareOverlays(folder, opened, { mayStandAlone: true });
  const leaning = opened.disks.filter(({ disk }) => !overlays.get(disk)?.standsAlone);
  const chains = leaning.map(({ disk, chain }) => ({ disk, paths: chain.map(({ path }) => path) }));
  const what = `boot of ${opened.name}`;
  const bytes = chains.length === 0 ? null : await openBytes(chains, { what, owner: launcher, signal });
  undo.defer(() => bytes?.close() ?? Promise.resolve());
  const address = (await bytes?.serveNbd()) ?? null;
  const { network, agent, arguments: more } = options;
  const serialLog = join(folder, SERIAL_LOG);
  const command = machineOf(opened, { folder, overlays, address, serialLog, network, agent, more });
  command.differs.forEach((what) => context.report({ kind: 'differs', what }));
  const record: Omit<BootRecord, 'schema'> = {
    ...{ target, targetId: opened.catalog.targetId, point: { id: opened.point.id, name: opened.name } },
    ...{ owner: launcher.record(what), program: command.program, args: [...command.args] },
    hasAgent: command.hasAgent,
    disks: [...command.nodes].map(([disk, names]) => ({
      ...{ disk, image: overlays.get(disk)?.path ?? '', ...names },
    })),
    daemons: [...(bytes?.folders ?? [])],
  };
  await writeScript(folder, record, address?.kind === 'unix' ? address.path : null);
  // Before it is one: whoever comes after a kill of this process finds it by this record.
  await writeBootRecord(folder, record);
  signal.throwIfAborted();
  launcher.become(join(folder, SCRIPT));
  const monitor = await reachMachine(socketsIn(folder).monitor, launcher.ended, signal);
  await monitor.close();
  await bytes?.leave();
  launcher.leave();
  return { schema: 1, ...record };
}

/** With a mark of the machine's; where no overlay leans on the point any more its files are not looked at, and may be gone. */
async function openFor(launcher: Launcher, start: Start, undo: Unwind): Promise<OpenPoint> {
  const { target, folder, options, context, warn, before } = start;
  const asked = options.asked ?? { point: await pointOfOverlays(folder) };
  if (before && (await standsAlone(before))) return openPoint(target, asked, { look: 'catalog' });
  const { breakLock } = options;
  const { signal } = context;
  return openForLong(asked, { target, verb: 'boot', ownerOf: launcher.record, breakLock, signal, warn }, undo);
}

/** @param socket what the disks lean on; null where they have all */
export async function writeScript(
  folder: string,
  { target, point, program, args }: Pick<BootRecord, 'target' | 'point'> & Pick<BootCommand, 'program' | 'args'>,
  socket: string | null,
): Promise<void> {
  const again = `qmpbackup boot --target ${asShellWord(target)} --to ${asShellWord(folder)}`;
  const guard =
    socket === null
      ? []
      : [
          '# The disks lean on the backup, which only qmpbackup opens.',
          `[ -S ${asShellWord(socket)} ] || { echo ${asShellWord(`Start it by: ${again}`)} >&2; exit 1; }`,
        ];
  const text = [
    '#!/bin/sh',
    `# The VM of ${printable(point.name)} of ${printable(target)}, with its disks in this folder. Written by qmpbackup boot.`,
    ...guard,
    `exec ${commandLines({ program, args })}`,
  ];
  await replaceFile(join(folder, SCRIPT), `${text.join('\n')}\n`, { mode: 0o700 });
}
