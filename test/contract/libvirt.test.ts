/** What src/libvirt expects of virsh and libvirtd, held against the real ones. */
import { existsSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exportOf, type PullBackup } from '../../src/libvirt/backup-xml.js';
import {
  beginBackup,
  deleteCheckpoint,
  endBackup,
  freeze,
  redefineCheckpoint,
  thaw,
  validateCheckpoint,
} from '../../src/libvirt/backup.js';
import type { NewCheckpoint } from '../../src/libvirt/checkpoint-xml.js';
import { askAgent, askConnection, listSnapshots } from '../../src/libvirt/connection.js';
import {
  dumpDefinition,
  findDomain,
  guessDomain,
  inspectDomain,
  jobOf,
  lastJobOf,
  listCheckpoints,
  listDomains,
} from '../../src/libvirt/domain.js';
import { DomainNotFound, LibvirtUnreachable, VirshError, VirshKilled, VirshTimeout } from '../../src/libvirt/errors.js';
import { commandLineOf, hintOfCommandLine, hintOfPath } from '../../src/libvirt/monitor.js';
import { createVirsh, openVirsh, type Virsh } from '../../src/libvirt/virsh.js';
import { createImage } from '../support/lab/disk-images.js';
import { write } from '../support/lab/guest-writes.js';
import type { LabDomain } from '../support/lab/libvirt-domain.js';
import { type LibvirtLab, startLibvirt } from '../support/lab/libvirt.js';
import { run } from '../support/lab/programs.js';
import { patient } from '../support/patience.js';
import { afterTest, labDir } from '../support/scenario.js';

const MIB = 1024 * 1024;
const NAME = `we ird & <"'ü,=`;

let lab: LibvirtLab;
let virsh: Virsh;
let domain: LabDomain;
beforeAll(async () => {
  lab = await startLibvirt();
  virsh = createVirsh(lab.uri);
  const image = async (name: string, format: 'qcow2' | 'raw' = 'qcow2'): Promise<string> => {
    const file = join(lab.dir, 'images', name);
    await createImage({ file, format, size: 32 * MIB });
    return file;
  };
  domain = await lab.define({
    name: NAME,
    disks: [
      { target: 'vda', file: await image(`a 'b" & c,d.qcow2`), xml: '<serial>S-1</serial>' },
      { target: 'vdb', file: await image('b.qcow2') },
      { target: 'vdc', file: await image('c.raw', 'raw'), format: 'raw' },
      { target: 'hda', device: 'cdrom' },
    ],
  });
  await domain.start();
}, patient(60_000));
afterAll(async () => {
  await lab.close();
});

const pull = (since: Readonly<Record<string, string | null>>): PullBackup & { readonly mode: 'pull' } => ({
  mode: 'pull',
  socket: join(lab.dir, 'pull.sock'),
  disks: Object.entries(since).map(([target, parent]) => ({
    target,
    since: parent,
    scratch: join(lab.dir, `scratch ' & ${target}`),
  })),
});
const checkpoint = (name: string, disks = ['vda', 'vdb']): NewCheckpoint => ({
  name,
  disks,
  without: ['vda', 'vdb', 'vdc', 'hda'].filter((target) => !disks.includes(target)),
});
const end = (): Promise<void> => endBackup(virsh, domain.uuid, { sleep });
/** A FULL of two disks that ends at once: what is left is the checkpoint. */
const mark = async (name: string): Promise<void> => {
  await beginBackup(virsh, domain.uuid, pull({ vda: null, vdb: null }), checkpoint(name));
  await end();
};

describe('errors', () => {
  it('tell a libvirt that is not there from a domain that is not', async () => {
    const nowhere = createVirsh('qemu+unix:///system?socket=/nonexistent');
    await expect(listDomains(nowhere)).rejects.toThrow(LibvirtUnreachable);
    await expect(listDomains(nowhere)).rejects.toThrow(/Failed to connect socket to '\/nonexistent'/);
    await expect(inspectDomain(virsh, 'nosuch')).rejects.toThrow(DomainNotFound);
    await expect(virsh('nonsense')).rejects.toMatchObject({ words: "unknown command: 'nonsense'", reason: 'other' });
  });

  it('a virsh that somebody kills ends in VirshKilled', async () => {
    const pid = (await lab.pidOf('libvirtd'))!;
    process.kill(pid, 'SIGSTOP');
    try {
      const asked = expect(virsh('list', [], { timeoutMs: 10_000 })).rejects.toThrow(VirshKilled);
      // By its words: questions of the test before, about a domain that is not there, may still be under way.
      const started = async () =>
        (await run('pgrep', ['-P', String(process.pid), '-f', '^virsh .* list$'], { allowed: [0, 1] })).stdout;
      await expect.poll(started, { timeout: patient(5000) }).toMatch(/^\d+$/);
      process.kill(Number(await started()), 'SIGKILL');
      await asked;
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  });

  it('a libvirtd that hangs ends in VirshTimeout', async () => {
    const pid = (await lab.pidOf('libvirtd'))!;
    process.kill(pid, 'SIGSTOP');
    try {
      await expect(virsh('list', [], { timeoutMs: 300 })).rejects.toThrow(VirshTimeout);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  });
});

describe('a virsh that stays', () => {
  const open = (limitMs?: number): ReturnType<typeof openVirsh> => {
    const opened = openVirsh(lab.uri, limitMs);
    afterTest(opened.close);
    return opened;
  };
  const children = async (): Promise<readonly string[]> => {
    const found = await run('pgrep', ['-P', String(process.pid), '-f', '^virsh --connect'], { allowed: [0, 1] });
    return found.stdout.split('\n').filter((line) => line !== '');
  };
  const questions = (ask: Virsh): readonly Promise<string>[] => [
    ask('domstate', [], { domain: domain.uuid }),
    ask('backup-dumpxml', [], { domain: domain.uuid }),
    ask('dumpxml', [], { domain: domain.uuid }),
    ask('domcapabilities', ['--emulatorbin', '/nonexistent/file']),
    ask('blockjob', ['--path', 'vda', '--info', '--raw'], { domain: domain.uuid }),
    ask('domstate', [], { domain: 'nosuch' }),
    ask('checkpoint-list', ['--no-such-option'], { domain: domain.uuid }),
    ask('domblkinfo', ['--all'], { domain: domain.uuid }),
    ask('hostname'),
  ];
  const outcomes = async (asked: readonly Promise<string>[]): Promise<readonly unknown[]> =>
    (await Promise.allSettled(asked)).map((each) =>
      each.status === 'fulfilled' ? each.value.trim() : (each.reason as unknown),
    );

  it('answers as one of its own for each question does, in one process that is gone at its end', async () => {
    const cache = await labDir();
    const before = process.env['XDG_CACHE_HOME'];
    process.env['XDG_CACHE_HOME'] = cache;
    const { virsh: staying, close } = open();
    await staying('uri');
    process.env['XDG_CACHE_HOME'] = before;
    if (before === undefined) delete process.env['XDG_CACHE_HOME'];
    const pids = await children();
    expect(pids).toHaveLength(1);
    expect(await outcomes(questions(staying))).toEqual(await outcomes(questions(virsh)));
    expect(await children()).toEqual(pids);
    await close();
    expect(await children()).toEqual([]);
    // virsh keeps what it was asked by hand.
    expect(await readdir(cache)).toEqual([]);
    await expect(staying('domstate', [], { domain: domain.uuid })).resolves.toMatch(/^running/);
  });

  it('is not missed where somebody kills it, and does not mind that libvirtd is started again', async () => {
    const { virsh: staying } = open();
    await staying('uri');
    await lab.stopDaemon('kill');
    try {
      await expect(staying('domstate', [], { domain: domain.uuid })).rejects.toThrow(LibvirtUnreachable);
    } finally {
      await lab.startDaemon();
    }
    await expect(staying('domstate', [], { domain: domain.uuid })).resolves.toMatch(/^running/);
    const { virsh: other } = open();
    await other('uri');
    for (const pid of await children()) process.kill(Number(pid), 'SIGKILL');
    await expect(other('domstate', [], { domain: domain.uuid })).resolves.toMatch(/^running/);
  });

  it('keeps the deadline of each question, and no other waits for one that takes long', async () => {
    const { virsh: staying } = open(3_000);
    await staying('uri');
    const qemu = await domain.pid();
    process.kill(qemu, 'SIGSTOP');
    try {
      // QEMU itself has to answer the one, and not the other.
      const slow = staying('domblkinfo', ['--all'], { domain: domain.uuid });
      const late = expect(slow).rejects.toMatchObject({ command: 'domblkinfo', timeoutMs: 3_000 });
      const begun = performance.now();
      await sleep(50);
      await expect(staying('domstate', [], { domain: domain.uuid })).resolves.toMatch(/^running/);
      expect(performance.now() - begun).toBeLessThan(2_500);
      await late;
    } finally {
      process.kill(qemu, 'SIGCONT');
    }
    await expect(staying('domblkinfo', ['--all'], { domain: domain.uuid })).resolves.toContain('vda');
  });
});

describe('a domain', () => {
  it('is listed and described, with names that need quoting', async () => {
    await expect(listDomains(virsh)).resolves.toEqual([{ uuid: domain.uuid, name: NAME }]);
    const state = await inspectDomain(virsh, domain.uuid);
    expect(state).toMatchObject({
      name: NAME,
      uuid: domain.uuid,
      type: 'qemu',
      state: 'running',
      stateReason: 'booted',
      active: true,
      agent: 'disconnected',
      checkpoints: [],
      job: null,
      backup: null,
    });
    expect(
      state.disks.map(({ target, device, format, source, serial, alias }) => [
        target,
        device,
        format,
        source?.path,
        serial,
        alias,
      ]),
    ).toEqual([
      ['vda', 'disk', 'qcow2', join(lab.dir, 'images', `a 'b" & c,d.qcow2`), 'S-1', 'virtio-disk0'],
      ['vdb', 'disk', 'qcow2', join(lab.dir, 'images', 'b.qcow2'), null, 'virtio-disk1'],
      ['vdc', 'disk', 'raw', join(lab.dir, 'images', 'c.raw'), null, 'virtio-disk2'],
      ['hda', 'cdrom', null, undefined, null, 'ide0-0-0'],
    ]);
    expect(state.sizes.get('vda')).toMatchObject({ capacity: 32 * MIB });
    expect(state.sizes.get('hda')).toBeNull();
  });

  it('is found by its name or its UUID, never by an id', async () => {
    const found = { uuid: domain.uuid, name: NAME };
    await expect(findDomain(virsh, NAME)).resolves.toEqual(found);
    await expect(findDomain(virsh, domain.uuid.toUpperCase())).resolves.toEqual(found);
    const { stdout: id } = await lab.virsh(['domid', domain.uuid]);
    await expect(findDomain(virsh, id.trim())).rejects.toThrow(DomainNotFound);
  });

  it('has sockets of libvirt, whose paths tell its name as its QEMU does', async () => {
    const { stdout: id } = await lab.virsh(['domid', domain.uuid]);
    const short = `domain-${id.trim()}-${NAME}`;
    const monitor = join(lab.dir, 'var/lib/libvirt/qemu', short, 'monitor.sock');
    const agent = join(lab.dir, 'var/lib/libvirt/qemu/channel/target', short, 'org.qemu.guest_agent.0');
    for (const path of [monitor, agent]) {
      expect(existsSync(path)).toBe(true);
      expect(hintOfPath(path)).toEqual({ name: NAME, whole: true });
    }
    expect(hintOfCommandLine(await commandLineOf(await domain.pid()))).toEqual({ name: NAME, whole: true });
    expect(hintOfCommandLine(await commandLineOf(process.pid))).toBeUndefined();
  });

  it('says what is around it, without a taint', async () => {
    await expect(askConnection(virsh)).resolves.toMatchObject({
      uri: lab.uri,
      version: expect.stringMatching(/^libvirt \d+\.\d+\.\d+ with QEMU \d/) as string,
    });
    await expect(listSnapshots(virsh, domain.uuid)).resolves.toEqual({ internal: [], external: [] });
    await expect(askAgent(virsh, domain.uuid, { timeoutMs: 8_000 })).rejects.toMatchObject({ reason: 'no-agent' });
    expect((await lab.virsh(['dominfo', domain.uuid])).stdout).not.toMatch(/custom/);
    await expect(askConnection(createVirsh('test:///default'))).rejects.toMatchObject({ code: 'unsafe' });
  });
});

describe('questions that are asked at once', () => {
  const questions: readonly (readonly [string, readonly string[]])[] = [
    ['domstate', ['--reason']],
    ['checkpoint-list', ['--name']],
    ['domjobinfo', ['--rawstats']],
    ['dumpxml', []],
    ['domblkinfo', ['--all']],
  ];
  const ask = ([command, args]: (typeof questions)[number]): Promise<string> =>
    virsh(command, args, { domain: domain.uuid });

  it('are answered as each by itself', async () => {
    const alone: string[] = [];
    for (const question of questions) alone.push(await ask(question));
    await expect(Promise.all(questions.map(ask))).resolves.toEqual(alone);
    expect(alone.map((text) => text.trim().split('\n')[0])).toEqual([
      ...['running (booted)', '', 'Job type: 0'],
      expect.stringContaining('<domain ') as string,
      expect.stringContaining('Target') as string,
    ]);
  });

  it('each get their own error', async () => {
    const answers = await Promise.allSettled([
      ask(['domstate', []]),
      ask(['backup-dumpxml', []]),
      virsh('domstate', [], { domain: 'nosuch' }),
      ask(['checkpoint-dumpxml', ['--checkpointname', 'none']]),
    ]);
    expect(answers).toMatchObject([
      { status: 'fulfilled', value: 'running\n\n' },
      { status: 'rejected', reason: { command: 'backup-dumpxml', reason: 'no-job' } },
      { status: 'rejected', reason: { domain: 'nosuch', code: 'unreachable' } },
      { status: 'rejected', reason: { command: 'checkpoint-dumpxml', reason: 'no-checkpoint' } },
    ]);
  });

  it('may have names that virsh would take for more than one word', async () => {
    const names = ['two words', "o'ne", 'a;domstate', 'back\\slash', '#', '"'];
    const answers = await Promise.allSettled(
      names.map((name) => ask(['checkpoint-dumpxml', ['--checkpointname', name]])),
    );
    expect(answers.map((answer) => answer.status === 'rejected' && (answer.reason as VirshError).words)).toEqual(
      names.map((name) => expect.stringContaining(`'${name}'`) as string),
    );
  });
});

describe('a pull backup', () => {
  it('takes a full and increments of different parents at one instant, and ends without a trace', async () => {
    await mark('qmpbackup-p1');
    await write(domain, 'vda', { offset: MIB, length: MIB, pattern: 1 });
    await write(domain, 'vdb', { offset: MIB, length: MIB, pattern: 1 });
    await mark('qmpbackup-p2');
    await write(domain, 'vda', { offset: 4 * MIB, length: MIB, pattern: 2 });
    await write(domain, 'vdb', { offset: 4 * MIB, length: MIB, pattern: 2 });
    const backup = pull({ vda: 'qmpbackup-p1', vdb: 'qmpbackup-p2', vdc: null });
    await beginBackup(virsh, domain.uuid, backup, checkpoint('qmpbackup-p3'));
    const state = await inspectDomain(virsh, domain.uuid);
    expect(state.job).toMatchObject({ state: 'running', operation: 'backup', scratch: { bytes: 0, total: 96 * MIB } });
    expect(state.backup).toEqual({
      mode: 'pull',
      socket: backup.socket,
      disks: backup.disks.map(({ target, since, scratch }) => ({
        target,
        since,
        exportName: target,
        exportBitmap: since === null ? null : `backup-${target}`,
        file: scratch,
      })),
    });
    await expect(dirtyBytes(backup, 'vda')).resolves.toBe(2 * MIB);
    await expect(dirtyBytes(backup, 'vdb')).resolves.toBe(MIB);
    expect(state.checkpoints.map(({ name, parent, disks }) => [name, parent, disks])).toEqual([
      ['qmpbackup-p1', null, changed('qmpbackup-p1', 2 * MIB)],
      ['qmpbackup-p2', 'qmpbackup-p1', changed('qmpbackup-p2', MIB)],
      ['qmpbackup-p3', 'qmpbackup-p2', changed('qmpbackup-p3', 0)],
    ]);
    await write(domain, 'vdc', { offset: 0, length: MIB, pattern: 3 });
    expect((await jobOf(virsh, domain.uuid))?.scratch?.bytes).toBeGreaterThanOrEqual(MIB);
    await end();
    await expect(jobOf(virsh, domain.uuid)).resolves.toBeNull();
    await expect(lastJobOf(virsh, domain.uuid)).resolves.toMatchObject({ state: 'cancelled', operation: 'backup' });
    for (const path of [backup.socket, ...backup.disks.map(({ scratch }) => scratch)])
      expect(existsSync(path)).toBe(false);
    await end();
  });

  it('is described alike, whatever was guessed of it before', async () => {
    const guess = await guessDomain(virsh, NAME);
    expect(guess).toEqual({ running: true, checkpoints: ['qmpbackup-p1', 'qmpbackup-p2', 'qmpbackup-p3'] });
    await expect(guessDomain(virsh, 'nosuch')).resolves.toBeNull();
    const asked = await inspectDomain(virsh, domain.uuid);
    expect(asked.checkpoints.map(({ name }) => name)).toEqual(['qmpbackup-p1', 'qmpbackup-p2', 'qmpbackup-p3']);
    for (const checkpoints of [
      ['qmpbackup-p1', 'qmpbackup-p2', 'qmpbackup-p3'],
      ['qmpbackup-p2'],
      ['qmpbackup-p3', 'qmpbackup-gone', 'qmpbackup-p1'],
      ['qmpbackup-gone'],
      [],
    ]) {
      for (const running of [true, false]) {
        await expect(inspectDomain(virsh, domain.uuid, { guess: { running, checkpoints } })).resolves.toEqual(asked);
      }
    }
  });

  it('is asked nothing that libvirtd must not be asked beside a deletion: without its lock, and of checkpoints of others', async () => {
    const sizesOf = async (options: { readonly sizes?: boolean }, name: string) =>
      (await inspectDomain(virsh, domain.uuid, options)).checkpoints
        .find((each) => each.name === name)
        ?.disks.map(({ changedBytes }) => changedBytes);
    await lab.virsh([
      'checkpoint-create-as',
      domain.uuid,
      'theirs',
      '--diskspec',
      'vda',
      '--diskspec',
      'vdb,checkpoint=no',
      '--diskspec',
      'vdc,checkpoint=no',
    ]);
    await expect(sizesOf({}, 'theirs')).resolves.toEqual([undefined]);
    await expect(sizesOf({}, 'qmpbackup-p3')).resolves.toEqual([0, 0]);
    await expect(sizesOf({ sizes: false }, 'qmpbackup-p3')).resolves.toEqual([undefined, undefined]);
    await lab.virsh(['checkpoint-delete', domain.uuid, 'theirs']);
  });

  it('of a deleted checkpoint, nothing is lost: its parent has gone on recording', async () => {
    await write(domain, 'vda', { offset: 8 * MIB, length: MIB, pattern: 4 });
    await deleteCheckpoint(virsh, domain.uuid, 'qmpbackup-p3');
    await deleteCheckpoint(virsh, domain.uuid, 'qmpbackup-p2');
    const [left, ...others] = await listCheckpoints(virsh, domain.uuid, { sizes: true });
    expect(others).toEqual([]);
    expect(left?.disks.find(({ target }) => target === 'vda')?.changedBytes).toBe(3 * MIB);
  });

  it('that cannot begin leaves nothing behind, and says why', async () => {
    const begin = (backup: PullBackup, name: string): Promise<void> =>
      beginBackup(virsh, domain.uuid, { mode: 'pull', ...backup }, checkpoint(name));
    await expect(begin(pull({ vda: 'nope' }), 'x')).rejects.toMatchObject({ reason: 'no-checkpoint' });
    await expect(begin(pull({ vda: null }), 'qmpbackup-p1')).rejects.toMatchObject({ reason: 'checkpoint-exists' });
    const full = pull({ vda: null });
    await writeFile(full.disks[0]!.scratch, 'mine');
    await expect(begin(full, 'x')).rejects.toMatchObject({ reason: 'file-exists' });
    await expect(readFile(full.disks[0]!.scratch, 'utf8')).resolves.toBe('mine');
    await run('rm', [full.disks[0]!.scratch]);
    await expect(begin({ ...full, socket: '/nonexistent/x' }, 'x')).rejects.toThrow(/Failed to bind socket/);
    expect(existsSync(full.disks[0]!.scratch)).toBe(false);
    expect((await listCheckpoints(virsh, domain.uuid, { sizes: false })).map(({ name }) => name)).toEqual([
      'qmpbackup-p1',
    ]);
    await expect(jobOf(virsh, domain.uuid)).resolves.toBeNull();
  });

  it('holds the domain: a second one is refused after 30 s', { timeout: patient(60_000) }, async () => {
    await beginBackup(virsh, domain.uuid, pull({ vda: null }));
    try {
      const second = beginBackup(virsh, domain.uuid, { ...pull({ vdb: null }), socket: join(lab.dir, 'second.sock') });
      await expect(second).rejects.toMatchObject({ reason: 'job-active' });
    } finally {
      await end();
    }
  });

  it('goes on while libvirtd ends and starts again', async () => {
    const backup = pull({ vda: 'qmpbackup-p1' });
    await beginBackup(virsh, domain.uuid, backup);
    await lab.stopDaemon('kill');
    await expect(jobOf(virsh, domain.uuid)).rejects.toThrow(LibvirtUnreachable);
    await expect(dirtyBytes(backup, 'vda')).resolves.toBe(3 * MIB);
    await lab.startDaemon();
    const state = await inspectDomain(virsh, domain.uuid);
    expect(state.backup?.socket).toBe(backup.socket);
    await end();
    expect(existsSync(backup.socket)).toBe(false);
    expect(existsSync(backup.disks[0]!.scratch)).toBe(false);
  });
});

describe('checkpoints', () => {
  it('of a domain that is off are listed, and only their metadata can be deleted', async () => {
    await domain.destroy();
    const state = await inspectDomain(virsh, domain.uuid);
    expect(state).toMatchObject({ state: 'shut off', active: false, agent: 'configured' });
    expect(state.checkpoints).toMatchObject([
      { name: 'qmpbackup-p1', disks: [{ changedBytes: undefined }, { changedBytes: undefined }] },
    ]);
    expect(state.sizes.get('vda')?.capacity).toBe(32 * MIB);
    await expect(deleteCheckpoint(virsh, domain.uuid, 'qmpbackup-p1')).rejects.toMatchObject({ reason: 'not-running' });
    await expect(beginBackup(virsh, domain.uuid, pull({ vda: null }))).rejects.toMatchObject({ reason: 'not-running' });
    await deleteCheckpoint(virsh, domain.uuid, 'qmpbackup-p1', { metadataOnly: true });
  });

  it('that libvirt lost are redefined and go on where they were', async () => {
    await domain.start();
    const lost = { ...checkpoint('qmpbackup-p1'), creationTime: 1_700_000_000 };
    await redefineCheckpoint(virsh, domain.uuid, lost, { validate: true });
    const [again] = await listCheckpoints(virsh, domain.uuid, { sizes: true });
    expect(again).toEqual({
      name: 'qmpbackup-p1',
      parent: null,
      creationTime: 1_700_000_000,
      disks: [
        { target: 'vda', bitmap: 'qmpbackup-p1', changedBytes: 3 * MIB },
        { target: 'vdb', bitmap: 'qmpbackup-p1', changedBytes: 2 * MIB },
      ],
    });
    const never = { ...checkpoint('never'), creationTime: 1 };
    await expect(redefineCheckpoint(virsh, domain.uuid, never, { validate: true })).rejects.toMatchObject({
      reason: 'bitmap-broken',
      brokenBitmap: { checkpoint: 'never', target: 'vda' },
    });
  });

  it('of which one disk lost its bitmap can be told by size, and are deleted by a redefinition', async () => {
    await domain.destroy();
    await run('qemu-img', ['bitmap', '--remove', join(lab.dir, 'images/b.qcow2'), 'qmpbackup-p1']);
    await domain.start();
    const [half] = await listCheckpoints(virsh, domain.uuid, { sizes: true });
    expect(half?.disks.map(({ changedBytes }) => changedBytes)).toEqual([3 * MIB, null]);
    const whole = { ...checkpoint('qmpbackup-p1'), creationTime: half!.creationTime };
    await expect(redefineCheckpoint(virsh, domain.uuid, whole, { validate: true })).rejects.toMatchObject({
      reason: 'bitmap-broken',
      brokenBitmap: { checkpoint: 'qmpbackup-p1', target: 'vdb' },
    });
    await expect(
      beginBackup(virsh, domain.uuid, pull({ vda: 'qmpbackup-p1', vdb: 'qmpbackup-p1' })),
    ).rejects.toMatchObject({
      reason: 'bitmap-broken',
      brokenBitmap: { checkpoint: 'qmpbackup-p1', target: 'vdb' },
    });
    await expect(deleteCheckpoint(virsh, domain.uuid, 'qmpbackup-p1')).rejects.toMatchObject({
      reason: 'bitmap-broken',
    });
    const rest = { ...checkpoint('qmpbackup-p1', ['vda']), creationTime: half!.creationTime };
    await redefineCheckpoint(virsh, domain.uuid, rest, { validate: true });
    await deleteCheckpoint(virsh, domain.uuid, 'qmpbackup-p1');
    const info = await run('qemu-img', ['info', '-U', join(lab.dir, `images/a 'b" & c,d.qcow2`)]);
    expect(info.stdout).not.toContain('qmpbackup-p1');
  });

  it('of a QEMU that was killed are broken, cannot be used, and can be deleted', async () => {
    await mark('qmpbackup-k1');
    // A bitmap is in the image only when QEMU has closed it once.
    await domain.destroy();
    await domain.start();
    await domain.kill();
    expect(await inspectDomain(virsh, domain.uuid)).toMatchObject({ state: 'shut off', stateReason: 'crashed' });
    await domain.start();
    const [broken] = await listCheckpoints(virsh, domain.uuid, { sizes: true });
    expect(broken?.disks.map(({ changedBytes }) => changedBytes)).toEqual([null, null]);
    await expect(validateCheckpoint(virsh, domain.uuid, 'qmpbackup-k1')).rejects.toMatchObject({
      reason: 'bitmap-broken',
    });
    await expect(beginBackup(virsh, domain.uuid, pull({ vda: 'qmpbackup-k1' }))).rejects.toMatchObject({
      reason: 'bitmap-broken',
    });
    await deleteCheckpoint(virsh, domain.uuid, 'qmpbackup-k1');
    await expect(listCheckpoints(virsh, domain.uuid, { sizes: true })).resolves.toEqual([]);
  });
});

describe('a push backup', () => {
  it('writes into new files and into prepared ones', async () => {
    const file = (name: string): string => join(lab.dir, `push ' ${name}.qcow2`);
    const push = (name: string, since: string | null, reuse: boolean): Promise<void> =>
      beginBackup(
        virsh,
        domain.uuid,
        { mode: 'push', reuse, disks: [{ target: 'vda', since, file: file(name) }] },
        checkpoint(name, ['vda']),
      );
    await push('full', null, false);
    await ended();
    await write(domain, 'vda', { offset: 9 * MIB, length: MIB, pattern: 9 });
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-F', 'qcow2', '-b', file('full'), file('inc')]);
    await push('inc', 'full', true);
    await expect(ended()).resolves.toMatchObject({
      state: 'completed',
      copied: { bytes: MIB, total: MIB },
      error: null,
    });
    const { stdout } = await run('qemu-io', ['-r', '-c', 'read -P 9 9M 1M', '-c', 'read -P 2 4M 1M', file('inc')]);
    expect(stdout).not.toContain('failed');
    await expect(push('inc', 'full', false)).rejects.toMatchObject({ reason: 'checkpoint-exists' });
  });
});

describe('the definition and the agent', () => {
  it('the definition has neither ids nor aliases; without an agent nothing is frozen', async () => {
    const xml = await dumpDefinition(virsh, domain.uuid);
    expect(xml).not.toContain('<alias');
    await expect(freeze(virsh, domain.uuid, { timeoutMs: 10_000 })).rejects.toMatchObject({ reason: 'no-agent' });
    await expect(thaw(virsh, domain.uuid, { timeoutMs: 10_000 })).rejects.toBeInstanceOf(VirshError);
  });
});

async function ended(): Promise<unknown> {
  while ((await jobOf(virsh, domain.uuid)) !== null) await sleep(20);
  return lastJobOf(virsh, domain.uuid);
}

function changed(name: string, bytes: number): unknown {
  return ['vda', 'vdb'].map((target) => ({ target, bitmap: name, changedBytes: bytes }));
}

async function dirtyBytes(backup: PullBackup, target: string): Promise<number> {
  const { exportName, dirtyContext } = exportOf(backup.disks.find((disk) => disk.target === target)!);
  const server = `driver=nbd,server.type=unix,server.path=${backup.socket},export=${exportName}`;
  const args = ['map', '--output=json', '--image-opts', `${server},x-dirty-bitmap=${dirtyContext}`];
  const extents = JSON.parse((await run('qemu-img', args)).stdout) as { length: number; data: boolean }[];
  return extents.filter(({ data }) => !data).reduce((sum, { length }) => sum + length, 0);
}
