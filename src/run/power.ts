import { settingAt, type Vm } from '../config/vm.js';
import { QmpBackupError } from '../errors.js';
import { isCausedBy } from '../host/file-errors.js';
import { DomainNotFound } from '../libvirt/errors.js';
import { createVirsh, type Virsh } from '../libvirt/virsh.js';
import { openSocket, parseEndpoint } from '../qmp/endpoint.js';

/** `gone`: libvirt knows no such domain. Of a socket nobody can tell that from off. */
export type VmPower = 'running' | 'off' | 'gone' | 'unknown';

/** Milliseconds. */
const DEADLINE_MS = 10_000;

/** Whether a VM runs, asked in a way that changes nothing. What cannot be told, its backup says. */
export async function powerOf(vm: Vm, virshAt: (uri: string | null) => Virsh = virshOf): Promise<VmPower> {
  const [domain, socket] = [settingAt(vm, 'domain'), settingAt(vm, 'socket')];
  if (domain !== null) return powerOfDomain(domain, virshAt(settingAt(vm, 'connect')));
  return socket === null ? 'off' : powerAtSocket(socket);
}

function virshOf(uri: string | null): Virsh {
  return createVirsh(uri ?? undefined, DEADLINE_MS);
}

async function powerOfDomain(domain: string, virsh: Virsh): Promise<VmPower> {
  try {
    return (await virsh('domstate', [], { domain })).trim() === 'shut off' ? 'off' : 'running';
  } catch (error) {
    if (error instanceof DomainNotFound) return 'gone';
    if (error instanceof QmpBackupError) return 'unknown';
    throw error;
  }
}

/** Nobody listens where a VM is off. A monitor that serves somebody else takes the connection all the same. */
async function powerAtSocket(socket: string): Promise<VmPower> {
  try {
    const connection = await openSocket(parseEndpoint(socket), { timeoutMs: DEADLINE_MS });
    connection.destroy();
    return 'running';
  } catch (error) {
    if (!(error instanceof QmpBackupError)) throw error;
    return isCausedBy(error, ['ENOENT', 'ECONNREFUSED']) ? 'off' : 'unknown';
  }
}
