import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type BootExpectation, evidenceName } from '../../core/boot-proof.js';
import { QmpBackupError } from '../../errors.js';
import { unwinding, type Unwind } from '../../flow/unwind.js';
import { thisProcess } from '../../host/lock-owner.js';
import { openForLong } from '../../repository/open-for-long.js';
import type { OpenPoint } from '../../repository/open-point.js';
import { prepareOverlays } from '../../repository/overlays.js';
import { openBytes } from '../../storage-daemon/open-bytes.js';
import { makePrivateFolder, removePrivateFolder } from '../../storage-daemon/private-folder.js';
import { awaitAnswer } from './await-answer.js';
import { keepEvidence } from './evidence.js';
import type { BootTrial } from './options.js';
import type { BootedPoint, VerifyRun } from './request.js';
import { lastWords } from './serial-log.js';
import { prepareDomain } from './trial-domain.js';
import type { Picture, PreparedMachine, TrialParts } from './trial-machine.js';
import { prepareQemu } from './trial-qemu.js';
import { refuseShortSpace, watchAppetite } from './watch-appetite.js';

/**
 * Starts the machine of a point over overlays that nobody keeps, without network, waits for its answer, and ends it. All of it
 * ends with this process, however that died: machine and daemons by the kernel or by libvirt, the folder by the next who makes
 * such a one.
 *
 * @throws QmpBackupError what is wrong with the point or what was asked for; a machine that does not boot is in the proof
 */
export function bootPoint(target: string, trial: BootTrial, run: VerifyRun): Promise<BootedPoint> {
  return unwinding((unwind) => bootWith(target, trial, run, unwind));
}

async function bootWith(target: string, trial: BootTrial, run: VerifyRun, unwind: Unwind): Promise<BootedPoint> {
  const begun = performance.now();
  const { options, signal, warn, report, now } = run;
  const { breakLock } = options;
  const opened = await openForLong(
    options.point ?? {},
    { target, verb: 'verify --boot', breakLock, signal, warn },
    unwind,
  );
  report({ kind: 'booting', point: opened.name });
  const parts = await partsOf(opened, { target, trial, run, unwind });
  const { folder, serialLog } = parts;
  const machine = await (opened.point.definition ? prepareDomain(parts) : prepareQemu(parts));
  const expect = trial.expect ?? (machine.hasAgent ? { kind: 'agent' as const } : nothingToExpect(opened));
  await refuseShortSpace(folder, signal);
  const { why, picture } = await tried(machine, expect, begun, parts);
  const afterMs = Math.round(performance.now() - begun);
  const said = why === null || expect.kind === 'serial' ? null : await lastWords(serialLog);
  const words = said === null || said === '' ? why : `${why}; the last line on its serial port: ${said}`;
  const { evidence } = trial;
  return {
    name: opened.name,
    proof: {
      ...{ point: opened.point.id, at: now().toISOString(), by: expect.kind },
      ...{ afterMs: why === null ? afterMs : null, why: words },
    },
    evidence:
      evidence === null
        ? { files: [], missing: [] }
        : await keepEvidence(evidence, evidenceName(opened.point), { picture, serialLog }),
  };
}

async function tried(
  prepared: PreparedMachine,
  expect: BootExpectation,
  since: number,
  { folder, serialLog, trial, run: { signal } }: TrialParts,
): Promise<{ readonly why: string | null; readonly picture: Picture | null }> {
  const machine = await prepared.start();
  const { timeoutMs } = trial;
  const answered = new AbortController();
  const watching = AbortSignal.any([signal, answered.signal]);
  try {
    const answer = awaitAnswer({ machine, serialLog, expect, timeoutMs, since, signal: watching });
    const appetite = watchAppetite({ folder, serialLog, signal: watching });
    const failed = await Promise.race([machine.died, answer, appetite]);
    // Its disks may have failed for want of room, which is no fault of the point.
    if (failed !== null) await refuseShortSpace(folder, signal);
    return { why: failed, picture: trial.evidence === null ? null : await machine.takePicture() };
  } finally {
    answered.abort();
  }
}

type Opening = Pick<TrialParts, 'target' | 'trial' | 'run' | 'unwind'>;

async function partsOf(opened: OpenPoint, opening: Opening): Promise<TrialParts> {
  const { run, unwind } = opening;
  const what = `verify --boot of ${opened.name}`;
  const folder = await makePrivateFolder(thisProcess(what));
  unwind.defer(() => removePrivateFolder(folder));
  const serialLog = join(folder, 'serial.log');
  await writeFile(serialLog, '');
  const disks = join(folder, 'disks');
  await mkdir(disks);
  const overlays = await prepareOverlays(disks, opened);
  const chains = opened.disks.map(({ disk, chain }) => ({ disk, paths: chain.map(({ path }) => path) }));
  const bytes = await openBytes(chains, { what, signal: run.signal });
  unwind.defer(() => bytes.close());
  return { ...opening, opened, folder, overlays, bytes, serialLog, what };
}

function nothingToExpect({ name }: OpenPoint): BootExpectation {
  throw new QmpBackupError('usage', `${name} has no guest agent that could answer`, {
    hint: 'Say what tells that it has booted: --expect serial:REGEX, or --expect running:SECONDS; or give it an agent: --agent',
  });
}
