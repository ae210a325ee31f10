import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { contextOf } from '../../backends/verb-context.js';
import type { Warn } from '../../core/warning.js';
import { QmpBackupError } from '../../errors.js';
import { Unwind, unwinding } from '../../flow/unwind.js';
import { codeOf, fileError } from '../../host/file-errors.js';
import { socketsIn } from '../../machine/machine-of-point.js';
import { reachMachine } from '../../machine/reach-machine.js';
import { lockFolder } from '../../repository/lock.js';
import { makeFolder } from '../../repository/make-folder.js';
import { refuseBackupFolder } from '../../repository/nesting.js';
import { removeMarksOf } from '../../repository/open-mark.js';
import { openPoint } from '../../repository/open-point.js';
import { pointOfOverlays } from '../../repository/overlays.js';
import { realTarget } from '../../repository/real-target.js';
import { endDaemon } from '../../storage-daemon/end-daemon.js';
import { type BootRecord, isRunning, readBootRecord, writeBootRecord } from './boot-record.js';
import { bootDomain } from './boot-domain.js';
import type { BootRun } from './boot-run.js';
import { readDomainRecord } from './domain-record.js';
import { bootOptions, type BootRequest } from './options.js';
import { refuseOther } from './refuse-other.js';
import type { BootContext, BootResult } from './request.js';
import { refuseUnheard } from './refuse-unheard.js';
import { SCRIPT, startMachine, writeScript } from './start-machine.js';
import { leaningDisks, streamDisks } from './stream.js';
import { warnOfStreamSpace } from './stream-space.js';

/**
 * Starts the VM of a point from the backup, or finds that it runs, and with `stream` frees it from the backup. It is a
 * process of its own: it runs on when this call has resolved, or when this process is killed.
 *
 * @throws QmpBackupError `usage`, `no-catalog`, `locked`; `unsafe` or `damaged` for what is wrong with the point, by name;
 * `failed` where QEMU does not start, in its words
 */
export function boot(request: BootRequest, given: Partial<BootContext> = {}): Promise<BootResult> {
  return unwinding(async (unwind) => {
    const begun = performance.now();
    const [options, context] = [bootOptions(request), contextOf(given)];
    const warn: Warn = (said) => context.report({ kind: 'warning', ...said });
    const target = await realTarget(options.target);
    const folder = resolve(options.to);
    await refuseBackupFolder(folder);
    await refuseForeignFolder(folder);
    const made = new Unwind();
    await makeFolder(folder, made);
    let isStarted = false;
    // It stays, as what is in it; where nothing is, it was made in vain.
    unwind.defer(async () => {
      if (!isStarted) await made.run();
    });
    const { breakLock } = options;
    const lock = await lockFolder(folder, { breakLock, purpose: `boot into ${folder}` });
    unwind.defer(() => lock.release());
    const signal = AbortSignal.any([context.signal, lock.signal]);
    const run = { ...{ target, folder, options, warn, unwind, begun }, context: { ...context, signal } };
    const domain = await readDomainRecord(folder);
    const isDomain = domain || (await isOfDomain(run));
    if (!isDomain) refuseDomainOptions(run);
    const started = await (isDomain ? bootDomain(run, domain) : bootMachine(run));
    isStarted = true;
    return started;
  });
}

/** Who is started here, as long as nothing was. */
async function isOfDomain({ target, folder, options }: BootRun): Promise<boolean> {
  if (await readBootRecord(folder)) return false;
  const asked = options.asked ?? { point: await pointOfOverlays(folder) };
  const { point, name } = await openPoint(target, asked, { look: 'catalog' });
  if (!point.definition) return false;
  if (point.definition.files.some(({ kind }) => kind === 'domain')) return true;
  throw new QmpBackupError('unsafe', `${name} does not have the definition of its domain`, {
    hint: 'Restore its disks, and make a definition for them: qmpbackup restore --target DIR --output DIR',
  });
}

function refuseDomainOptions({ options }: BootRun): void {
  const given = options.name !== null ? '--name' : options.connect !== null ? '--connect' : null;
  if (given === null) return;
  throw new QmpBackupError('usage', `${given} is for a point of a libvirt domain, and this one is of a VM by QMP`, {
    hint: 'Leave it out. Another name is for QEMU: -- -name NAME',
  });
}

async function bootMachine(run: BootRun): Promise<BootResult> {
  const { target, folder, options, context, begun } = run;
  const before = await readBootRecord(folder);
  const running = before && isRunning(before, folder, options.breakLock) ? before : undefined;
  if (running) {
    await refuseOther({ ...running, as: `pid ${running.owner.pid}` }, target, options.asked);
    refuseUnheard(running, options);
  }
  const record = running ?? (await startMachine({ ...run, before }));
  const { pid } = record.owner;
  const afterMs = Math.round(performance.now() - begun);
  context.report({ kind: 'running', as: pid, again: running !== undefined, afterMs });

  const { monitor: socket, agent } = socketsIn(folder);
  const monitor = await reachMachine(socket, new Promise(() => undefined), context.signal);
  run.unwind.defer(() => monitor.close());
  if (options.stream) {
    await warnOfStreamSpace(run, record);
    await streamDisks(monitor, record, options.rateLimit, context);
    await letGo(folder, record);
  }
  const leaning = await leaningDisks(monitor, record.disks);
  return {
    ...{ target, folder, point: record.point.name, state: running ? 'already-running' : 'started', pid },
    ...{ command: [record.program, ...record.args], script: join(folder, SCRIPT), monitor: socket },
    ...{ agent: record.hasAgent ? agent : null, domain: null },
    disks: record.disks.map(({ disk, image }) => ({ disk, overlay: image, leans: leaning.includes(disk) })),
  };
}

/** The machine leans on the backup no more: it is closed, and from now on the script starts it without us. */
async function letGo(folder: string, record: BootRecord): Promise<void> {
  for (const each of record.daemons) await endDaemon(each);
  await removeMarksOf(record.target, record.owner);
  const alone = { ...record, args: withoutBelow(record), daemons: [] };
  await writeScript(folder, alone, null);
  await writeBootRecord(folder, alone);
}

/** The command line without what is below the disks. */
function withoutBelow({ args, disks }: BootRecord): string[] {
  const below = new Set(disks.map((each) => each.below));
  const top = new Set(disks.map((each) => each.top));
  const kept: string[] = [];
  for (let index = 0; index < args.length; index += 1) {
    const [word = '', value = ''] = args.slice(index, index + 2);
    const node = word === '-blockdev' && value.startsWith('{') ? (JSON.parse(value) as Record<string, unknown>) : null;
    const name = node?.['node-name'];
    if (node === null) kept.push(word);
    else {
      if (top.has(String(name))) kept.push(word, JSON.stringify({ ...node, backing: null }));
      else if (!below.has(String(name))) kept.push(word, value);
      index += 1;
    }
  }
  return kept;
}

/** What is in it is believed, and started. */
async function refuseForeignFolder(folder: string): Promise<void> {
  if (/[\r\n]/.test(folder)) throw new QmpBackupError('usage', 'the name of the folder has a line break in it');
  const stats = await stat(folder).catch((error: unknown) => {
    if (codeOf(error) !== 'ENOENT') throw fileError('look at', folder, error);
  });
  if (!stats || (stats.uid === process.getuid?.() && (stats.mode & 0o022) === 0)) return;
  throw new QmpBackupError('unsafe', `${folder} belongs to somebody else, or others may write into it`, {
    hint: 'Choose a folder that is not there yet, or one that only you can write into (chmod go-w).',
  });
}
