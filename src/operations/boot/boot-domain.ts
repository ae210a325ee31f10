import { virshCommand } from '../../core/virsh-hint.js';
import { warning } from '../../core/warning.js';
import { messageOf, QmpBackupError } from '../../errors.js';
import { replaceFile } from '../../host/durable.js';
import { inspectProcess, judgeOwner, thisProcess } from '../../host/lock-owner.js';
import { dumpDefinition } from '../../libvirt/domain.js';
import { hostOf, requireThisHost } from '../../libvirt/host.js';
import { openVirsh, type Virsh } from '../../libvirt/virsh.js';
import { definitionPaths } from '../../machine/domain-definition.js';
import type { BootRun } from './boot-run.js';
import { type DomainRecord, writeDomainRecord } from './domain-record.js';
import { leaningDomainDisks, liveXml } from './leaning-disks.js';
import { letGoOfDaemons } from './let-go.js';
import { refuseOther } from './refuse-other.js';
import { refuseUnlinked } from './refuse-unheard.js';
import type { BootResult } from './request.js';
import { socketIn, startDomain } from './start-domain.js';
import { streamDomain } from './stream-domain.js';
import { warnOfStreamSpace } from './stream-space.js';

/** Starts the domain of a point, or finds that it runs, and with `stream` frees it from the backup. It is libvirt's from then on. */
export async function bootDomain(run: BootRun, before: DomainRecord | undefined): Promise<BootResult> {
  const { target, folder, options, context, begun } = run;
  refuseMachineOptions(run);
  refuseOtherName(run, before);
  const { virsh, close } = openVirsh(options.connect ?? before?.connect ?? undefined);
  run.unwind.defer(close);
  requireThisHost(await hostOf(virsh), 'the domain would read its disks from files that are here');
  refuseElsewhere(run, before);
  const running = before && (await liveXml(virsh, before.domain.uuid)) !== null ? before : undefined;
  if (running) {
    await refuseOther({ ...running, as: `the domain ${running.domain.name}` }, target, options.asked);
    refuseUnlinked(running, options, virsh.uri ?? null);
  }
  const record = running ?? (await startDomain({ ...run, virsh, before }));
  const { domain } = record;
  const afterMs = Math.round(performance.now() - begun);
  context.report({ kind: 'running', as: domain.name, again: running !== undefined, afterMs });

  if (running && (await leaningDomainDisks(virsh, running)).length > 0) refuseLost(running, virsh);
  if (options.stream) await warnOfStreamSpace(run, record);
  if (options.stream) await streamDomain(virsh, record, options.rateLimit, context);
  const leaning = await leaningDomainDisks(virsh, record);
  if (leaning.length === 0 && record.held) await letGo(run, virsh, record);
  return {
    ...{ target, folder, point: record.point.name, state: running ? 'already-running' : 'started', domain },
    ...{ pid: null, command: null, script: null, monitor: null, agent: null },
    disks: record.disks.map(({ disk, image }) => ({ disk, overlay: image, leans: leaning.includes(disk) })),
  };
}

function refuseMachineOptions({ options }: BootRun): void {
  const given = options.arguments.length > 0 ? 'arguments for QEMU' : options.agent ? 'channel for an agent' : null;
  if (given === null) return;
  throw new QmpBackupError('usage', `the point is of a libvirt domain, which takes no ${given}`, {
    hint: 'libvirt starts it by its definition. When it is off, change that: virsh edit; then run boot again.',
  });
}

function refuseOtherName({ options, folder }: BootRun, before: DomainRecord | undefined): void {
  if (!before || options.name === null || options.name === before.domain.name) return;
  throw new QmpBackupError('usage', `the domain with its disks in ${folder} is called ${before.domain.name}`, {
    hint: 'Leave --name out, or choose another folder.',
  });
}

function refuseElsewhere({ folder, options }: BootRun, before: DomainRecord | undefined): void {
  if (!before?.held || options.breakLock) return;
  const { owner } = before.held;
  if (judgeOwner(owner, thisProcess('look'), inspectProcess) !== 'elsewhere') return;
  throw new QmpBackupError('locked', `a domain was started from ${folder} on ${owner.host}, and may still run there`, {
    hint: 'If it has surely ended, run it again with --break-lock.',
  });
}

/** What it leans on has ended before it. */
function refuseLost({ domain, held }: DomainRecord, virsh: Virsh): void {
  if (held && judgeOwner(held.owner, thisProcess('look'), inspectProcess) !== 'dead') return;
  throw new QmpBackupError('failed', `the domain ${domain.name} runs, and what served the backup to it has ended`, {
    hint: `Its reads fail. End it (${virshCommand(virsh.uri ?? null, 'destroy', domain.uuid)}), and run this again: it starts again from its overlays.`,
  });
}

/** The domain leans on the backup no more: it is closed, and the domain is one as any other. */
async function letGo({ folder, warn }: BootRun, virsh: Virsh, record: DomainRecord): Promise<void> {
  const { held, domain, target } = record;
  if (held) await letGoOfDaemons(target, held, socketIn(folder));
  const xml = await dumpDefinition(virsh, domain.uuid, { secure: true });
  await replaceFile(definitionPaths(folder, { name: domain.name, nvram: null, tpm: [] }).xml, xml, { mode: 0o600 });
  if (record.autostart) {
    await virsh('autostart', [], { domain: domain.uuid }).catch((error: unknown) => {
      warn(warning('no-autostart', `${domain.name} does not start with the host as it did: ${messageOf(error)}`));
    });
  }
  await writeDomainRecord(folder, { ...record, held: null });
}
