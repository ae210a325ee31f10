import { realpath } from 'node:fs/promises';
import { asShellWord } from '../../core/shell-word.js';
import { QmpBackupError } from '../../errors.js';
import { ownerOfSocket, type SocketOwner } from '../../host/socket-owner.js';
import { commandLineOf, hintOfCommandLine, hintOfPath, type SocketHint } from '../../libvirt/monitor.js';
import type { QmpClient } from '../../qmp/client.js';
import { run } from '../../qmp/commands.js';
import { describeEndpoint, type Endpoint } from '../../qmp/endpoint.js';
import { QmpCommandError } from '../../qmp/errors.js';

/**
 * libvirt counts on being the only one who changes its VMs, and on its own sockets it is the only one who is heard. Before
 * a monitor's socket is opened: its path tells, or the process that listens there.
 *
 * @throws QmpBackupError `unsafe`
 */
export async function refuseLibvirtMonitor(monitor: Endpoint, owner: SocketOwner | undefined): Promise<void> {
  const hint = await hintOf(monitor, owner);
  if (hint) throw belongsToLibvirt(`the VM at ${describeEndpoint(monitor)}`, hint);
}

/**
 * For a QEMU whose process cannot be seen, as it runs elsewhere or under another user: each that libvirt starts has the
 * secret `masterKey0`, which this asks for.
 */
export async function refuseLibvirtQemu(client: QmpClient, monitor: Endpoint): Promise<void> {
  try {
    await run(client, 'qom-get', { path: '/objects/masterKey0', property: 'type' });
  } catch (error) {
    if (error instanceof QmpCommandError) return;
    throw error;
  }
  const { name = 'NAME' } = await run(client, 'query-name');
  throw belongsToLibvirt(`the VM at ${describeEndpoint(monitor)}`, { name, whole: true });
}

/** As for the monitor: what libvirt does not know of would thaw its guest, or freeze it in the middle of its own work. */
export async function refuseLibvirtAgent(agent: Endpoint): Promise<void> {
  const owner = agent.kind === 'unix' ? await ownerOfSocket(agent.path) : undefined;
  const hint = await hintOf(agent, owner);
  if (hint) throw belongsToLibvirt(`the guest agent at ${describeEndpoint(agent)}`, hint);
}

async function hintOf(endpoint: Endpoint, owner: SocketOwner | undefined): Promise<SocketHint | undefined> {
  if (endpoint.kind !== 'unix') return undefined;
  const listening = owner && hintOfCommandLine(await commandLineOf(owner.pid));
  // A path that does not exist is left for `connect` to report.
  return listening ?? hintOfPath(await realpath(endpoint.path).catch(() => endpoint.path));
}

function belongsToLibvirt(what: string, { name, whole }: SocketHint): QmpBackupError {
  const cut = whole ? '' : ' (the path holds the beginning of the name only: virsh list --all shows it)';
  return new QmpBackupError('unsafe', `${what} belongs to libvirt: it is the domain ${name}`, {
    hint: `Nothing was changed. Name the domain instead of the socket: --domain ${asShellWord(name)}${cut}`,
  });
}
