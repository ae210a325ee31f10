/**
 * What HMP's `info qtree` prints: every device of a machine, on the bus it sits on. One question tells what would take
 * hundreds of `qom-get`. Lines that are not understood are passed over.
 */
export interface TreeDevice {
  /** `virtio-blk-pci`. */
  readonly driver: string;
  readonly id: string | null;
  /** Name of the bus that it sits on. */
  readonly bus: string;
  readonly parent: TreeDevice | null;
  /** As `-device` takes them: without quotes, and without the second form that some numbers are told in. */
  readonly properties: ReadonlyMap<string, string>;
  /** `VGA controller`, of PCI devices. */
  readonly pciClass: string | null;
  /** Names of the buses that it offers. */
  readonly buses: readonly string[];
}

interface Growing extends TreeDevice {
  readonly properties: Map<string, string>;
  pciClass: string | null;
  readonly buses: string[];
}

/** Each device after the one that it hangs on; of one bus the oldest first, which QEMU prints last. */
export function parseDeviceTree(text: string): readonly TreeDevice[] {
  const devices: Growing[] = [];
  /** What is open, from the outside in. */
  const open: { readonly indent: number; readonly bus: string; readonly device: Growing | null }[] = [];
  for (const line of text.split(/\r?\n/)) {
    const indent = line.length - line.trimStart().length;
    const words = line.trim();
    while (open.length > 0 && (open.at(-1)?.indent ?? 0) >= indent) open.pop();
    const inner = open.at(-1);
    const [, bus] = /^bus: (.+)$/.exec(words) ?? [];
    const [, driver, id] = /^dev: (.+), id "(.*)"$/.exec(words) ?? [];
    if (bus !== undefined) {
      inner?.device?.buses.push(bus);
      open.push({ indent, bus, device: inner?.device ?? null });
    } else if (driver !== undefined && inner) {
      const device: Growing = {
        ...{ driver, id: id === '' || id === undefined ? null : id, bus: inner.bus, parent: inner.device },
        ...{ properties: new Map(), pciClass: null, buses: [] },
      };
      devices.push(device);
      open.push({ indent, bus: inner.bus, device });
    } else if (inner?.device) {
      const [, name, value] = /^([\w-]+) = (.*)$/.exec(words) ?? [];
      const [, pciClass] = /^class (.+), addr /.exec(words) ?? [];
      if (name !== undefined) inner.device.properties.set(name, plainValue(value ?? ''));
      else if (pciClass !== undefined) inner.device.pciClass = pciClass;
    }
  }
  return oldestFirst(devices);
}

/** `"XYZ"`; `512 (512 B)`; `3 (0x3)`; `04.0`. */
function plainValue(value: string): string {
  if (/^".*"$/.test(value)) return value.slice(1, -1);
  return value.replace(/ \(.*\)$/, '');
}

function oldestFirst(printed: readonly TreeDevice[]): readonly TreeDevice[] {
  const children = new Map<TreeDevice | null, TreeDevice[]>();
  for (const device of printed) children.set(device.parent, [device, ...(children.get(device.parent) ?? [])]);
  const below = (parent: TreeDevice | null): readonly TreeDevice[] =>
    (children.get(parent) ?? []).flatMap((device) => [device, ...below(device)]);
  return below(null);
}
