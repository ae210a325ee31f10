import { createImage } from '../../src/host/empty-image.js';
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, copyFile, mkdir, open, readdir, rename, rm, stat, symlink, utimes } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { PointDisk } from '../../src/core/point.js';
import { ownerOfSocket } from '../../src/host/socket-owner.js';
import { readCatalog, readCatalogCopies } from '../../src/repository/catalog-file.js';
import { checkChain } from '../../src/repository/chain-check.js';
import { sha256File } from '../../src/repository/digest.js';
import { fileState } from '../../src/repository/file-state.js';
import { Staging } from '../../src/repository/staging.js';
import { takenNames } from '../../src/repository/target.js';
import { catalog, entry, MiB, point } from '../support/builders.js';
import { built } from '../support/built.js';
import { patient } from '../support/patience.js';
import { scratchFolders } from '../support/scratch-folder.js';

/** The repository against real images, real processes and real users. */

const run = promisify(execFile);
const scratch = scratchFolders();
const isRoot = process.getuid?.() === 0;
const NOBODY = 65534;

describe('takenNames', () => {
  it('tells what a folder holds, and what the catalog names there though it is away', async () => {
    const target = await scratch();
    await mkdir(join(target, 'vd1'));
    await copyFile('/dev/null', join(target, 'vd1', 'OTHER'));
    const files = [{ kind: 'domain' as const, file: 'DOMAIN-7.xml', path: null, size: 1, sha256: '' }];
    const definition = { files, autostart: null, missing: [] };
    const known = catalog([point(7, [entry('vd1', 'FULL-7.qcow2'), entry('vd2', 'FULL-7.qcow2')], { definition })]);
    const taken = await takenNames({ target, catalog: known }, ['vd1', 'vd2', 'vd3', 'definition']);
    expect([...taken]).toEqual([
      ['vd1', ['OTHER', 'FULL-7.qcow2']],
      ['vd2', ['FULL-7.qcow2']],
      ['vd3', []],
      ['definition', ['DOMAIN-7.xml']],
    ]);
  });
});

describe('checkChain', () => {
  const names = ['FULL-1.qcow2', 'INC-2.qcow2', 'INC-3.qcow2'];
  let target: string;
  let line: PointDisk[];
  const path = (name: string): string => join(target, 'vd1', name);

  beforeEach(async () => {
    target = await scratch();
    await mkdir(join(target, 'vd1'));
    line = [];
    for (const [index, name] of names.entries()) {
      const parent = names[index - 1] ?? null;
      const backing = parent === null ? [] : ['-F', 'qcow2', '-b', parent, '-u'];
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, path(name), '1M']);
      await run('qemu-io', ['-c', `write -P ${index + 1} ${index * 64}k 64k`, path(name)]);
      line.push({
        ...entry('vd1', name),
        ...(await fileState(path(name))),
        parent,
        virtualSize: MiB,
        sha256: await sha256File(path(name)),
      });
    }
  });

  async function expectBroken(file: string, why: RegExp, files: readonly PointDisk[] = line): Promise<void> {
    const { findings } = await checkChain(target, files);
    expect(findings[0]).toMatchObject({ level: 'error', file, why: expect.stringMatching(why) as string });
  }

  it('accepts what was sealed, without reading it', async () => {
    let hashed = 0;
    const result = await checkChain(target, line, { onBytes: (count) => (hashed += count) });
    expect(result).toEqual({ findings: [], refreshed: [] });
    expect(hashed).toBe(0);
  });

  it('accepts a copied folder by its digests, and says which times to record', async () => {
    const copy = await scratch();
    await mkdir(join(copy, 'vd1'));
    for (const name of names) await copyFile(path(name), join(copy, 'vd1', name));
    const result = await checkChain(copy, line);
    expect(result.findings).toEqual([]);
    const { refreshed } = result;
    expect(refreshed.map(({ file }) => file)).toEqual(names);
    for (const { file, mtimeMs } of refreshed)
      expect((await fileState(join(copy, 'vd1', file)))?.mtimeMs).toBe(mtimeMs);
    const noDigests = line.map((each) => ({ ...each, sha256: null }));
    const { findings } = await checkChain(copy, noDigests);
    expect(findings.map(({ file }) => file)).toEqual(names);
    for (const { why } of findings) expect(why).toMatch(/no digest/);
  });

  it('finds a missing file, a longer one, and one with other bytes', async () => {
    await rename(path('INC-2.qcow2'), join(target, 'aside'));
    await expectBroken('INC-2.qcow2', /missing/);
    await rename(join(target, 'aside'), path('INC-2.qcow2'));
    const handle = await open(path('INC-2.qcow2'), 'r+');
    await handle.write(Buffer.from('x'), 0, 1, 200_000);
    await handle.close();
    await expectBroken('INC-2.qcow2', /modified after/);
    await append(path('FULL-1.qcow2'));
    await expectBroken('FULL-1.qcow2', /bytes, the catalog says/);
  });

  it('finds two files that were swapped', async () => {
    await rename(path('INC-2.qcow2'), join(target, 'aside'));
    await rename(path('INC-3.qcow2'), path('INC-2.qcow2'));
    await rename(join(target, 'aside'), path('INC-3.qcow2'));
    await expectBroken('INC-2.qcow2', /its backing file is INC-2.qcow2, the catalog says FULL-1.qcow2/);
  });

  it.each([
    ['an absolute path', ['-F', 'qcow2', '-b', '/etc/passwd'], /backing file is \/etc\/passwd/],
    ['another folder', ['-F', 'qcow2', '-b', '../vd2/FULL-1.qcow2'], /backing file is \.\.\/vd2/],
    ['another format', ['-F', 'raw', '-b', 'FULL-1.qcow2'], /must be qcow2/],
    ['nothing', ['-b', ''], /backing file is none/],
  ])('refuses a backing link to %s', async (_, link, why) => {
    await run('qemu-img', ['rebase', '-u', '-f', 'qcow2', ...link, path('INC-2.qcow2')]);
    const { size, mtimeMs } = (await fileState(path('INC-2.qcow2')))!;
    // The catalog may be hostile too: it says what the file looks like.
    const told = line.map((each) => (each.file === 'INC-2.qcow2' ? { ...each, size, mtimeMs } : each));
    await expectBroken('INC-2.qcow2', why, told);
  });

  it('refuses an external data file', async () => {
    await rm(path('FULL-1.qcow2'));
    const options = `data_file=${join(target, 'data')},data_file_raw=on`;
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, path('FULL-1.qcow2'), '1M']);
    const told = [{ ...line[0]!, ...(await fileState(path('FULL-1.qcow2'))) }];
    await expectBroken('FULL-1.qcow2', /external data file/, told);
  });

  it('refuses links in the place of a file or of the folder, and what is no qcow2', async () => {
    await rename(path('INC-3.qcow2'), join(target, 'aside'));
    await symlink(join(target, 'aside'), path('INC-3.qcow2'));
    await expectBroken('INC-3.qcow2', /symbolic link/);
    await rename(join(target, 'vd1'), join(target, 'real'));
    await symlink(join(target, 'real'), join(target, 'vd1'));
    await expectBroken('FULL-1.qcow2', /folder is missing or a symbolic link/);
    await rm(join(target, 'vd1'));
    await rename(join(target, 'real'), join(target, 'vd1'));
    const handle = await open(path('FULL-1.qcow2'), 'r+');
    await handle.write(Buffer.alloc(4), 0, 4, 0);
    await handle.close();
    await expectBroken('FULL-1.qcow2', /not a qcow2 image/);
  });

  it('refuses a line with a gap', async () => {
    await expectBroken('INC-3.qcow2', /gives as its parent INC-2.qcow2, not FULL-1.qcow2/, [line[0]!, line[2]!]);
  });

  it('hashes only what has another time', async () => {
    await utimes(path('INC-2.qcow2'), 1, 1);
    let hashed = 0;
    const result = await checkChain(target, line, { onBytes: (count) => (hashed += count) });
    expect(result).toEqual({ findings: [], refreshed: [{ file: 'INC-2.qcow2', mtimeMs: 1000 }] });
    expect(hashed).toBe(line[1]!.size);
  });
});

async function append(path: string): Promise<void> {
  const handle = await open(path, 'a');
  await handle.write('x');
  await handle.close();
}

describe('the catalog', () => {
  it('is whole, old or new, whenever its writer is killed', async () => {
    const target = await scratch();
    const big = Array.from({ length: 60 }, (_, index) => point(index, [entry('vd1', `FULL-${index}.qcow2`)]));
    const program = `
      const { writeCatalog } = await import(process.argv[1]);
      const [target, value] = [process.argv[2], JSON.parse(process.argv[3])];
      console.log('ready');
      for (let round = 0; ; round += 1) {
        await writeCatalog(target, { ...value, tool: String(round), points: value.points.slice(round % 50) });
      }`;
    let rounds = 0;
    for (let kill = 0; kill < 12; kill += 1) {
      const args = ['--input-type=module', '-e', program, await built('repository/catalog-file.js'), target];
      const writer = spawn(process.execPath, [...args, JSON.stringify(catalog(big))], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = once(writer, 'exit');
      await once(writer.stdout, 'data');
      await sleep(5 + Math.random() * 60);
      writer.kill('SIGKILL');
      await ended;
      const found = await readCatalog(target);
      if (found) rounds += Number(found.tool);
      const copies = ['catalog-copy-1.json', 'catalog-copy-1.json.tmp', 'catalog-copy-2.json'];
      const files = ['catalog.json', 'catalog.json.tmp', ...copies];
      expect(files).toEqual(expect.arrayContaining(await readdir(target)));
      // Never further behind than the one before, whichever of them there is.
      const [copy] = await readCatalogCopies(target);
      if (found && copy) expect(Number(found.tool) - Number(copy.tool)).toBeLessThanOrEqual(1);
    }
    expect(rounds).toBeGreaterThan(0);
  });
});

describe('staging', () => {
  it('keeps mode and owner of a reserved file that an image is made of', async () => {
    const owner = isRoot ? { uid: NOBODY, gid: NOBODY } : { uid: process.getuid!(), gid: process.getgid!() };
    const staging = new Staging(join(await scratch(), 't'), { owner });
    await staging.makeTarget();
    await staging.makeDiskFolder('vd1');
    const path = await staging.reserve('vd1', 'FULL-1.qcow2');
    await createImage(path, { size: 1024 * 1024 });
    const stats = await stat(path);
    expect({ mode: stats.mode & 0o777, uid: stats.uid, gid: stats.gid }).toEqual({ mode: 0o600, ...owner });
    await staging.promote('vd1', 'FULL-1.qcow2');
    await staging.undo();
    await expect(readdir(join(path, '..'))).rejects.toThrow('ENOENT');
  });

  // Root may write anywhere, so another user has to try.
  it.runIf(isRoot)('names user and path when the target may not be written to', async () => {
    const root = await scratch();
    await chmod(root, 0o755);
    await mkdir(join(root, 'theirs'), { mode: 0o755 });
    const program = `
      const { Staging } = await import(process.argv[1]);
      process.setgid(${NOBODY});
      process.setuid(${NOBODY});
      for (const target of process.argv.slice(2)) {
        try { await new Staging(target).makeTarget(); console.log('made'); }
        catch ({ code, message, hint }) { console.log(JSON.stringify({ code, message, hint })); }
      }`;
    const targets = [join(root, 'theirs'), join(root, 'theirs', 'new', 'one')];
    const args = ['--input-type=module', '-e', program, await built('repository/staging.js'), ...targets];
    const { stdout } = await run(process.execPath, args);
    const answers = stdout.trim().split('\n');
    expect(answers).toHaveLength(2);
    for (const answer of answers) {
      expect(JSON.parse(answer)).toMatchObject({
        code: 'unsafe',
        message: expect.stringMatching(
          new RegExp(`${join(root, 'theirs')}.*permission denied for user nobody`),
        ) as string,
        hint: expect.any(String) as string,
      });
    }
    expect(await readdir(join(root, 'theirs'))).toEqual([]);
  });
});

describe('ownerOfSocket', () => {
  const started: ChildProcess[] = [];
  afterEach(async () => {
    for (const child of started.splice(0)) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const ended = once(child, 'exit');
      child.kill('SIGKILL');
      await ended;
    }
  });

  const QEMU = ['-accel', 'tcg', '-S', '-nodefaults', '-display', 'none', '-machine', 'none'];

  async function qemu(folder: string, socket: string, uid?: number): Promise<ChildProcess> {
    const options = uid === undefined ? {} : { uid, gid: uid };
    const args = [...QEMU, '-qmp', `unix:${socket},server=on,wait=off`];
    const child = spawn('qemu-system-x86_64', args, {
      cwd: folder,
      stdio: ['ignore', 'ignore', 'inherit'],
      ...options,
    });
    started.push(child);
    await expect.poll(async () => (await readdir(folder)).includes('qmp'), { timeout: patient(20_000) }).toBe(true);
    return child;
  }

  it('finds the QEMU behind absolute, relative and linked paths', async () => {
    const folder = await scratch();
    if (isRoot) await chown(folder, NOBODY, NOBODY);
    const child = await qemu(folder, join(folder, 'qmp'), isRoot ? NOBODY : undefined);
    const expected = { pid: child.pid, ...(isRoot ? { uid: NOBODY, gid: NOBODY, user: 'nobody' } : {}) };
    await symlink(join(folder, 'qmp'), join(folder, 'link'));
    for (const path of ['qmp', 'link', './/qmp']) {
      expect(await ownerOfSocket(`${folder}/${path}`)).toMatchObject(expected);
    }
  });

  it('finds a QEMU that was given a relative path, also when it went into the background', async () => {
    const folder = await scratch();
    const child = await qemu(folder, 'qmp');
    expect(await ownerOfSocket(join(folder, 'qmp'))).toMatchObject({ pid: child.pid });

    const other = await scratch();
    const args = [...QEMU, '-qmp', 'unix:daemon-qmp,server=on,wait=off', '-daemonize', '-pidfile', join(other, 'pid')];
    await run('qemu-system-x86_64', args, { cwd: other });
    const handle = await open(join(other, 'pid'));
    const pid = Number(await handle.readFile('utf8'));
    await handle.close();
    try {
      expect(await ownerOfSocket(join(other, 'daemon-qmp'))).toMatchObject({ pid });
    } finally {
      process.kill(pid, 'SIGKILL');
    }
  });

  it('finds any other process, and nobody where nobody listens', async () => {
    const folder = await scratch();
    const server = createServer().listen(join(folder, 'qmp'));
    await once(server, 'listening');
    expect(await ownerOfSocket(join(folder, 'qmp'))).toMatchObject({ pid: process.pid, uid: process.getuid!() });
    await rename(join(folder, 'qmp'), join(folder, 'kept'));
    server.close();
    await once(server, 'close');
    expect(await ownerOfSocket(join(folder, 'kept'))).toBeUndefined();
    expect(await ownerOfSocket(join(folder, 'gone'))).toBeUndefined();
  });
});
