/** Live migrations from one QEMU of this host to another one that has the same images. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startQemu, type Vm } from './qemu.js';

export interface Destination {
  readonly vm: Vm;
  /** For `migrate`. */
  readonly uri: string;
}

/** A second QEMU with the disks of `vm`, which waits for its guest. Its files are in `dir`. */
export async function startDestination(
  vm: Pick<Vm, 'options'>,
  dir: string,
  args: readonly string[] = [],
): Promise<Destination> {
  const uri = `unix:${join(dir, 'migration')}`;
  const { args: same = [] } = vm.options;
  const more = [...withoutIncoming(same), ...args, '-incoming', uri];
  return { uri, vm: await startQemu({ ...vm.options, dir, args: more }) };
}

function withoutIncoming(args: readonly string[]): readonly string[] {
  const at = args.indexOf('-incoming');
  return at < 0 ? args : [...args.slice(0, at), ...args.slice(at + 2)];
}

/** Resolves to how the migration ended: `completed`, `failed`, `cancelled`. Throws QEMU's words where it is refused. */
export async function migrate(vm: Vm, uri: string): Promise<string> {
  await vm.control.execute('migrate', { uri });
  for (;;) {
    const status = await migrationOf(vm);
    if (['completed', 'failed', 'cancelled'].includes(status)) return status;
    await sleep(10);
  }
}

/**
 * Lets the VM take its disks, and stops it again. QEMU 10.0 leaves them inactive until then where its guest does not run, and
 * aborts at a write of the monitor's.
 */
export async function takeDisks(vm: Vm): Promise<void> {
  await untilArrived(vm);
  await vm.control.execute('cont');
  await vm.control.execute('stop');
}

/**
 * The source is through before the destination has all. A `cont` then counts for later: a `stop` takes it back, and disks that
 * are still inactive end QEMU at a write of the monitor's.
 */
export async function untilArrived(vm: Vm): Promise<void> {
  while ((await statusOf(vm)) === 'inmigrate') await sleep(10);
}

/** `status` of `query-migrate`; `none` where there is none. */
export async function migrationOf(vm: Vm): Promise<string> {
  const { status = 'none' } = (await vm.control.execute('query-migrate')) as { readonly status?: string };
  return status;
}

export async function statusOf(vm: Vm): Promise<string> {
  return ((await vm.control.execute('query-status')) as { readonly status: string }).status;
}
