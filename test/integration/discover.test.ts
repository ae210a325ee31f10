import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, rm, symlink } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { vmsOf } from '../../src/config/discover.js';
import { readConfig } from '../../src/config/read-config.js';
import { settingAt } from '../../src/config/vm.js';
import { LibvirtUnreachable } from '../../src/libvirt/errors.js';
import type { Virsh } from '../../src/libvirt/virsh.js';

it('finds domains by their names, but those that are left out or named already', async () => {
  const asked: (string | null)[] = [];
  const virshAt = (uri: string | null): Virsh => {
    asked.push(uri);
    return () =>
      Promise.resolve(['db', 'scratch-1', 'web 1', 'web2'].map((name) => `${randomUUID()} ${name}\n`).join(''));
  };
  const config = readConfig(
    `
defaults: { target: "/backup/{vm}" }
vms: { database: { domain: db } }
discover: [{ domains: "*", exclude: [scratch-*] }, { domains: web2, connect: "test:///x" }]
`,
    '/c.yaml',
  );
  const { vms, failures } = await vmsOf(config, { virshAt });
  expect(failures).toEqual([]);
  expect(asked).toEqual([null, 'test:///x']);
  expect(vms.map((vm) => [vm.name, settingAt(vm, 'domain'), settingAt(vm, 'target')])).toEqual([
    ['database', 'db', '/backup/database'],
    ['web 1', 'web 1', '/backup/web 1'],
    ['web2', 'web2', '/backup/web2'],
  ]);
});

it('goes on where a libvirt does not answer, and tells', async () => {
  const config = readConfig('vms: { a: { socket: /s, target: /b } }\ndiscover: [{ domains: "*" }]', '/c.yaml');
  const virshAt = (): Virsh => () => Promise.reject(new LibvirtUnreachable('list', undefined, 'no such socket'));
  const { vms, failures } = await vmsOf(config, { virshAt });
  expect(vms.map(({ name }) => name)).toEqual(['a']);
  expect(failures).toEqual([expect.stringMatching(/^\/c\.yaml:2: .*no such socket/)]);
});

it('finds sockets by a pattern of their paths, named by what the pattern stands for', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'qmpbackup-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  for (const name of ['web1.qmp', 'web2.qmp', 'vms/a/qmp.sock']) {
    await mkdir(join(dir, name, '..'), { recursive: true });
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(dir, name), resolve));
    onTestFinished(() => new Promise<void>((resolve) => void server.close(() => resolve())));
  }
  await symlink('nowhere', join(dir, 'dead.qmp'));
  const config = readConfig(
    `
defaults: { target: "/backup/{vm}" }
discover:
  - { sockets: "${dir}/*.qmp", agent-socket: "${dir}/{vm}.qga", exclude: [web2] }
  - { sockets: "${dir}/vms/*/qmp.sock" }
`,
    '/c.yaml',
  );
  const { vms } = await vmsOf(config);
  expect(vms.map((vm) => [vm.name, settingAt(vm, 'socket'), settingAt(vm, 'agent-socket')])).toEqual([
    ['web1', join(dir, 'web1.qmp'), join(dir, 'web1.qga')],
    ['a', join(dir, 'vms/a/qmp.sock'), null],
  ]);
});
