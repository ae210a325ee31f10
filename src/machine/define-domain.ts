import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { virshCommand } from '../core/virsh-hint.js';
import { type Warn, warning } from '../core/warning.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { listDomains } from '../libvirt/domain.js';
import { VirshError } from '../libvirt/errors.js';
import { hostOf, requireThisHost } from '../libvirt/host.js';
import { TPM_STATE } from '../libvirt/tpm-state.js';
import { createVirsh, type Virsh } from '../libvirt/virsh.js';
import {
  type DefinitionRequest,
  type DefinitionSource,
  writeTpmState,
  type WrittenDefinition,
} from './domain-definition.js';

/** `restore --define`: the restored domain, known to libvirt. No domain that is there is touched. */
export interface Definer {
  /** @throws QmpBackupError `failed`: the restored files stay all the same */
  define(written: WrittenDefinition): Promise<void>;
}

/**
 * Looks whether there is room for the domain, before anything is restored.
 *
 * @throws QmpBackupError `unsafe` for a name or UUID that a domain has, and for a libvirt of another host; LibvirtUnreachable
 */
export async function openDefiner(
  { connect }: DefinitionRequest,
  source: DefinitionSource,
  warn: Warn,
): Promise<Definer> {
  const virsh = createVirsh(connect ?? undefined);
  requireThisHost(await hostOf(virsh), 'the definition would name images that are here');
  await refuseTakenDomain(virsh, source);
  return { define: (written) => define(virsh, source, written, warn) };
}

/** libvirt takes a definition with name and UUID of a domain for a change of that domain. */
export async function refuseTakenDomain(
  virsh: Virsh,
  { name, uuid, newUuid }: Pick<DefinitionSource, 'name' | 'uuid' | 'newUuid'>,
): Promise<void> {
  const domains = await listDomains(virsh);
  const hint = 'Give the restored one another name: --name NEW. It then gets a UUID and MAC addresses of its own.';
  if (domains.some((each) => each.name === name)) {
    throw new QmpBackupError('unsafe', `there is a domain ${name}, and it is not replaced`, { hint });
  }
  const same = domains.find((each) => each.uuid === (newUuid ?? uuid));
  if (same) {
    throw new QmpBackupError('unsafe', `the domain ${same.name} has the UUID of ${name}, and is not replaced`, {
      hint,
    });
  }
}

async function define(virsh: Virsh, source: DefinitionSource, written: WrittenDefinition, warn: Warn): Promise<void> {
  try {
    // Time has passed since the first look.
    await refuseTakenDomain(virsh, source);
    await virsh('define', ['--file', written.xml]);
  } catch (error) {
    const why = error instanceof VirshError ? error.words : messageOf(error);
    throw new QmpBackupError('failed', `all was restored, but the domain ${written.name} was not defined: ${why}`, {
      cause: error,
      hint: `The restored files stay. When that is mended: ${virshCommand(virsh.uri ?? null, 'define', written.xml)}`,
    });
  }
  if (source.tpm.length > 0) await placeTpmState(source, written, warn);
  if (source.autostart) await startWithHost(virsh, source, written, warn);
}

/** The emulator finds the state of a TPM by the domain's UUID. Its owner is set by libvirt when it starts. */
export async function placeTpmState(
  { tpm }: DefinitionSource,
  { uuid, tpm: copy }: WrittenDefinition,
  warn: Warn,
): Promise<void> {
  const folder = join(TPM_STATE, uuid);
  try {
    await mkdir(TPM_STATE, { mode: 0o711 }).catch((error: unknown) => {
      if (codeOf(error) !== 'EEXIST') throw fileError('create the folder', TPM_STATE, error);
    });
    await writeTpmState(folder, tpm);
  } catch (error) {
    warn(
      warning(
        'tpm-not-placed',
        `the state of its TPM was not put into ${folder} (${messageOf(error)}); before the first start see whether what is in ${copy} belongs there`,
      ),
    );
  }
}

async function startWithHost(
  virsh: Virsh,
  { newUuid }: DefinitionSource,
  { uuid, name }: WrittenDefinition,
  warn: Warn,
): Promise<void> {
  if (newUuid !== null) {
    warn(
      warning(
        'no-autostart',
        `the original starts with the host; ${name} does not, unless you say: ${virshCommand(virsh.uri ?? null, 'autostart', uuid)}`,
      ),
    );
    return;
  }
  try {
    await virsh('autostart', [], { domain: uuid });
  } catch (error) {
    warn(
      warning('no-autostart', `${name} is defined, but does not start with the host as it did: ${messageOf(error)}`),
    );
  }
}
