import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BootExpectation } from '../../core/boot-proof.js';
import { asComponent } from '../../core/names.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { unwinding, type Unwind } from '../../flow/unwind.js';
import { thisProcess } from '../../host/lock-owner.js';
import { startProgram } from '../../host/program.js';
import { within } from '../../host/within.js';
import { machineOf, refuseDomain, socketsIn } from '../../machine/machine-of-point.js';
import { reachMachine } from '../../machine/reach-machine.js';
import { openForLong } from '../../repository/open-for-long.js';
import type { OpenPoint } from '../../repository/open-point.js';
import { prepareOverlays } from '../../repository/overlays.js';
import { WITH_PARENT } from '../../storage-daemon/daemon.js';
import { openBytes } from '../../storage-daemon/open-bytes.js';
import { makePrivateFolder, removePrivateFolder } from '../../storage-daemon/private-folder.js';
import { awaitAnswer } from './await-answer.js';
import { keepEvidence, takePicture } from './evidence.js';
import type { BootTrial } from './options.js';
import type { BootedPoint, VerifyRun } from './request.js';
import { lastWords } from './serial-log.js';
import { refuseShortSpace, watchAppetite } from './watch-appetite.js';

/** Milliseconds between the loss of a monitor and the end of its QEMU. */
const END_MS = 2_000;

/**
 * Starts the machine of a point over overlays that nobody keeps, without network, waits for its answer, and ends it. All of it
 * ends with this process, however that died: machine and daemons by the kernel, the folder by the next who makes such a one.
 *
 * @throws QmpBackupError what is wrong with the point or what was asked for; a machine that does not boot is in the proof
 */
export function bootPoint(target: string, trial: BootTrial, run: VerifyRun): Promise<BootedPoint> {
  return unwinding((unwind) => bootWith(target, trial, run, unwind));
}

async function bootWith(target: string, trial: BootTrial, verifying: VerifyRun, unwind: Unwind): Promise<BootedPoint> {
  const begun = performance.now();
  const { options, signal, warn, report, now } = verifying;
  const { breakLock } = options;
  const opened = await openForLong(
    options.point ?? {},
    { target, verb: 'verify --boot', breakLock, signal, warn },
    unwind,
  );
  refuseDomain(opened);
  report({ kind: 'booting', point: opened.name });
  const what = `verify --boot of ${opened.name}`;
  const folder = await makePrivateFolder(thisProcess(what));
  unwind.defer(() => removePrivateFolder(folder));
  const { command, serialLog } = await prepare(opened, folder, trial, { what, signal, unwind });
  const expect = trial.expect ?? (command.hasAgent ? { kind: 'agent' as const } : nothingToExpect(opened));
  const sockets = socketsIn(folder);
  await refuseShortSpace(folder, signal);
  const child = ['sh', '-c', WITH_PARENT, `${process.pid}`, command.program, ...command.args];
  const program = await startProgram('setpriv', ['--pdeathsig', 'KILL', ...child], {
    ownSession: true,
    onStdout: () => undefined,
  });
  unwind.defer(() => program.kill());
  const ended = program.ended.then(({ stderr, failure }) => failure?.message ?? stderr);
  const { why, picture } = await tried();
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
        : await keepEvidence(evidence, fileName(opened), { picture, serialLog }),
  };

  async function tried() {
    const monitor = await reachMachine(sockets.monitor, ended, signal);
    const { timeoutMs } = trial;
    const waiting = { agentSocket: sockets.agent, serialLog, expect, timeoutMs, since: begun, signal };
    const answered = new AbortController();
    const watching = AbortSignal.any([signal, answered.signal]);
    const died = ended.then((text) => `QEMU has ended${text.trim() === '' ? '' : `: ${text.trim()}`}`);
    try {
      const answer = awaitAnswer({ monitor, ...waiting }).catch(async (error: unknown) => {
        signal.throwIfAborted();
        // The monitor is lost where it has ended, which says why.
        if (!(error instanceof QmpBackupError)) throw error;
        return (await within(END_MS, died)) ?? messageOf(error);
      });
      const appetite = watchAppetite({ folder, serialLog, signal: watching });
      const failed = await Promise.race([died, answer, appetite]);
      // Its disks may have failed for want of room, which is no fault of the point.
      if (failed !== null) await refuseShortSpace(folder, signal);
      return { why: failed, picture: trial.evidence === null ? null : await takePicture(monitor, folder) };
    } finally {
      answered.abort();
      await monitor.close();
    }
  }
}

interface Preparing {
  readonly what: string;
  readonly signal: AbortSignal;
  readonly unwind: Unwind;
}

async function prepare(opened: OpenPoint, folder: string, trial: BootTrial, { what, signal, unwind }: Preparing) {
  const serialLog = join(folder, 'serial.log');
  await writeFile(serialLog, '');
  const disks = join(folder, 'disks');
  await mkdir(disks);
  const overlays = await prepareOverlays(disks, opened);
  const chains = opened.disks.map(({ disk, chain }) => ({ disk, paths: chain.map(({ path }) => path) }));
  const bytes = await openBytes(chains, { what, signal });
  unwind.defer(() => bytes.close());
  const address = await bytes.serveNbd();
  const { agent, more } = trial;
  const command = machineOf(opened, { folder, overlays, address, serialLog, network: 'none', agent, more });
  return { command, serialLog };
}

function nothingToExpect({ name }: OpenPoint): BootExpectation {
  throw new QmpBackupError('usage', `${name} has no guest agent that could answer`, {
    hint: 'Say what tells that it has booted: --expect serial:REGEX, or --expect running:SECONDS; or give it an agent: --agent',
  });
}

function fileName({ point }: OpenPoint): string {
  return `point-${point.number}-${asComponent(point.id)}`;
}
