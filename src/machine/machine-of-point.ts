import { join } from 'node:path';
import { type BootCommand, commandToBoot } from '../core/boot-command.js';
import { recordedHardware } from '../core/hardware.js';
import type { NbdAddress } from '../core/nbd-address.js';
import { isSocketPath } from '../core/socket-path.js';
import { QmpBackupError } from '../errors.js';
import type { OpenPoint } from '../repository/open-point.js';
import type { Overlay } from '../repository/overlays.js';

/** How a machine is started from a point, with overlays in a folder that its sockets are in, too. */
export interface MachineRequest {
  readonly folder: string;
  readonly overlays: ReadonlyMap<string, Overlay>;
  /** Where the disks of the point are served; null where no overlay leans on them. */
  readonly address: NbdAddress | null;
  readonly serialLog: string;
  readonly network: 'none' | 'as-recorded';
  readonly agent: boolean;
  readonly more: readonly string[];
}

export interface MachineSockets {
  readonly monitor: string;
  readonly agent: string;
}

/** @throws QmpBackupError `unsafe` where their paths would be too long */
export function socketsIn(folder: string): MachineSockets {
  const sockets = { monitor: join(folder, 'monitor.sock'), agent: join(folder, 'agent.sock') };
  if (isSocketPath(sockets.monitor)) return sockets;
  throw new QmpBackupError('unsafe', `the path of a socket would be too long: ${sockets.monitor}`, {
    hint: 'Choose a folder with a shorter path.',
  });
}

/** @throws QmpBackupError `usage` where what is recorded and what was given are not enough */
export function machineOf(opened: OpenPoint, request: MachineRequest): BootCommand {
  const { folder, overlays, address, ...rest } = request;
  const { point, catalog, disks } = opened;
  const command = commandToBoot({
    ...{
      ...rest,
      machine: point.machine,
      hardware: recordedHardware(catalog.points, point),
      sockets: socketsIn(folder),
    },
    disks: disks.map(({ disk, entry }) => {
      const overlay = overlays.get(disk);
      const backing = address === null || overlay?.standsAlone ? null : { address, exportName: disk };
      const called = entry.source.device ?? entry.source.node;
      return { disk, called, image: overlay?.path ?? join(folder, `${disk}.qcow2`), backing };
    }),
  });
  const { refused } = command;
  if (refused) throw new QmpBackupError('usage', `${opened.name}: ${refused.why}`, { hint: refused.hint });
  return command;
}
