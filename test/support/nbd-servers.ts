/** Real NBD servers for tests, each in a folder of its own, ended by pid. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NbdAddress } from '../../src/core/nbd-address.js';
import { LAB_ENV } from './lab/programs.js';

export interface RealServer {
  readonly address: NbdAddress;
  readonly child: ChildProcess;
  readonly stop: () => Promise<void>;
}

/** nbdkit with these arguments (filters, plugin, parameters) on a unix socket in `folder`. */
export function startNbdkit(folder: string, args: readonly string[]): Promise<RealServer> {
  const path = join(folder, 'nbdkit.sock');
  const pid = join(folder, 'nbdkit.pid');
  return start('nbdkit', ['--foreground', '--pidfile', pid, '--unix', path, ...args], pid, { kind: 'unix', path });
}

/** qemu-nbd with these arguments, on a unix socket in `folder` or, with `tcp`, on a port of this host. */
export async function startPlainQemuNbd(
  folder: string,
  args: readonly string[],
  { tcp = false } = {},
): Promise<RealServer> {
  const pid = join(folder, 'qemu-nbd.pid');
  const path = join(folder, 'qemu-nbd.sock');
  const address: NbdAddress = tcp ? { kind: 'tcp', host: '127.0.0.1', port: await freePort() } : { kind: 'unix', path };
  const where = address.kind === 'tcp' ? ['--bind', address.host, '--port', String(address.port)] : ['--socket', path];
  return start('qemu-nbd', ['--persistent', '--shared', '4', '--pid-file', pid, ...where, ...args], pid, address);
}

async function start(program: string, args: readonly string[], pid: string, address: NbdAddress): Promise<RealServer> {
  const child = spawn(program, args, { env: { ...process.env, ...LAB_ENV }, stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
  const exited = once(child, 'close');
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
  };
  for (let turn = 0; !(existsSync(pid) && (await readFile(pid, 'utf8')).endsWith('\n')); turn += 1) {
    if (child.exitCode !== null || turn > 3000) {
      await stop();
      throw new Error(`${program} ${args.join(' ')} does not serve: ${said}`);
    }
    await sleep(10);
  }
  return { address, child, stop };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
