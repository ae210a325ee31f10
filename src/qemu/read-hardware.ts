import { type Hardware, hardwareOf, type Medium } from '../core/hardware.js';
import type { SourceDisk } from '../core/disk.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { QmpCommandError, QmpProtocolError, QmpTimeout } from '../qmp/errors.js';
import type { BlockDevice } from '../qmp/replies.js';
import { guestDevices } from './guest-devices.js';

/** A disk of the point, and where it is in the VM. */
export interface PointSource {
  readonly disk: string;
  readonly source: SourceDisk;
}

/**
 * What must be known of the machine to start it again, in one batch of questions; a question that QEMU refuses leaves its
 * field empty, and null is a QEMU that tells nothing of its devices. For a VM whose disks have no filter of ours.
 *
 * @throws QmpConnectionLost
 */
export async function readHardware(client: QmpClient, disks: readonly PointSource[]): Promise<Hardware | null> {
  const property = (name: string): Promise<unknown> =>
    told(run(client, 'qom-get', { path: '/machine', property: name }));
  const monitor = (line: string): Promise<string | null> =>
    told(run(client, 'human-monitor-command', { 'command-line': line }));
  const [target, cpus, tree, network, given, blocks, indexes, properties] = await Promise.all([
    told(run(client, 'query-target')),
    told(run(client, 'query-hotpluggable-cpus')),
    monitor('info qtree'),
    monitor('info network'),
    told(guestDevices(client)),
    told(run(client, 'query-block')),
    Promise.all(disks.map(({ source }) => bootIndex(client, source.qdev))),
    Promise.all(PROPERTIES.map(property)),
  ]);
  const [topology, firmware, kernel, initrd, append, boot, usb] = properties;
  if (!tree?.startsWith('bus: ')) return null;
  const media = disks.map(({ disk, source }, index): Medium => {
    const { device, root, file, format } = source;
    const names = [device, root].filter((each) => each !== null);
    return { names, disk, file, format, readOnly: false, bootIndex: indexes[index] ?? null };
  });
  return hardwareOf({
    ...{ arch: target?.arch ?? null, cpuType: cpus?.[0]?.type ?? null, topology: recordOrNull(topology) },
    ...{ firmware: textOrNull(firmware), kernel: textOrNull(kernel), initrd: textOrNull(initrd) },
    ...{ append: textOrNull(append), bootOrder: textOrNull(recordOrNull(boot)?.order), usb: usb === true },
    ...{ tree, network, given: given ?? [], media: [...media, ...otherMedia(blocks ?? [], media)] },
  });
}

/** Of `/machine`. */
const PROPERTIES = ['smp', 'firmware', 'kernel', 'initrd', 'append', 'boot', 'usb'] as const;

/** A point is worth more than what is told of its machine. A monitor that is lost is not one that does not know. */
async function told<T>(answer: Promise<T>): Promise<T | null> {
  try {
    return await answer;
  } catch (error) {
    if (NOT_TOLD.some((kind) => error instanceof kind)) return null;
    throw error;
  }
}

/** It was refused, has another shape than is known, or did not come in time. */
const NOT_TOLD = [QmpCommandError, QmpProtocolError, QmpTimeout] as const;

/** It is a property of the device itself, and `query-block` may name the virtio part of it. */
async function bootIndex(client: QmpClient, qdev: string | null): Promise<number | null> {
  if (qdev === null) return null;
  const device = qdev.replace(/\/virtio-backend$/, '');
  const path = device.startsWith('/') ? device : `/machine/peripheral/${device}`;
  const index = await told(run(client, 'qom-get', { path, property: 'bootindex' }));
  return typeof index === 'number' && index >= 0 ? index : null;
}

function otherMedia(blocks: readonly BlockDevice[], known: readonly Medium[]): readonly Medium[] {
  return blocks.flatMap(({ device, inserted }): readonly Medium[] => {
    const names = [device, inserted?.['node-name'] ?? ''].filter((each) => each !== '');
    if (known.some((each) => each.names.some((name) => names.includes(name)))) return [];
    const { file = '', drv: format = 'raw', ro: readOnly = true } = inserted ?? {};
    return [{ names, disk: null, file, format, readOnly, bootIndex: null }];
  });
}

function textOrNull(value: unknown): string | null {
  return typeof value === 'string' ? value : null;
}

function recordOrNull(value: unknown): Readonly<Record<string, unknown>> | null {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : null;
}
