import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { globMatcher } from '../core/glob.js';
import { folderName } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import { codeOf, fileError } from '../host/file-errors.js';
import { listDomains } from '../libvirt/domain.js';
import { createVirsh, type Virsh } from '../libvirt/virsh.js';
import type { Config, Discover, DiscoverDomains, DiscoverSockets, Settings } from './config.js';
import { type FoundVm, foundSetting, settingAt, type Vm, vmFrom } from './vm.js';

/** What is asked for VMs; tests hand in others. */
export interface Discovering {
  /** `uri`: null is as virsh. */
  readonly virshAt: (uri: string | null) => Virsh;
}

/** A libvirt that does not answer shall not hold up the VMs of others. */
const DEADLINE_MS = 30_000;

/** Of a libvirt that does not answer in this time, in milliseconds, it is a failure. */
export function discoveringWithin(ms: number): Discovering {
  return { virshAt: (uri) => createVirsh(uri ?? undefined, ms) };
}

export const DISCOVERING = discoveringWithin(DEADLINE_MS);

export interface Discovered {
  /** Those that the file names, then those that were found, without those that it names already. */
  readonly vms: readonly Vm[];
  /** Why an entry of `discover` could not be asked: there may be more VMs. */
  readonly failures: readonly string[];
}

/** All VMs of a configuration. */
export async function vmsOf(config: Config, { virshAt }: Discovering = DISCOVERING): Promise<Discovered> {
  const vms = [...config.vms].map(([name, vm]) => vmFrom(config, 'vms', { name, ...vm }));
  const failures: string[] = [];
  for (const entry of config.discover) {
    try {
      for (const found of await foundBy(entry, virshAt)) {
        const vm = vmFrom(config, 'discover', found);
        if (!vms.some((other) => isSame(other, vm))) vms.push(vm);
      }
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      failures.push(`${config.file}:${entry.place.line}: ${error.message}`);
    }
  }
  return { vms, failures };
}

/** One that the file names, whatever it calls it. */
function isSame(a: Vm, b: Vm): boolean {
  if (a.name === b.name) return true;
  return ['socket', 'domain'].some((path) => {
    const [of, other] = [settingAt(a, path), settingAt(b, path)];
    return of !== null && of === other && settingAt(a, 'connect') === settingAt(b, 'connect');
  });
}

function foundBy(entry: Discover, virshAt: Discovering['virshAt']): Promise<readonly FoundVm[]> {
  return entry.kind === 'domains' ? domainsOf(entry, virshAt(entry.connect)) : socketsOf(entry);
}

async function domainsOf({ pattern, exclude, connect, place }: DiscoverDomains, virsh: Virsh): Promise<FoundVm[]> {
  const names = (await listDomains(virsh)).map(({ name }) => name);
  return names
    .filter(globMatcher(pattern))
    .filter(isLeftIn(exclude))
    .map((domain) => {
      const settings: Settings = new Map([
        ['domain', foundSetting(domain, place)],
        ...(connect === null ? [] : [['connect', foundSetting(connect, place)] as const]),
      ]);
      return { name: folderName(domain), place, settings };
    });
}

async function socketsOf({ pattern, exclude, agentSocket, place }: DiscoverSockets): Promise<FoundVm[]> {
  const settingsAt = (path: string): Settings =>
    new Map([
      ['socket', foundSetting(path, place)],
      ...(agentSocket === null ? [] : [['agent-socket', foundSetting(agentSocket, place)] as const]),
    ]);
  const named = (await pathsLike(pattern)).filter(({ name }) => isLeftIn(exclude)(name));
  const found: FoundVm[] = [];
  for (const { path, name } of named) {
    if (await isSocket(path)) found.push({ name: folderName(name), place, settings: settingsAt(path) });
  }
  return found;
}

function isLeftIn(exclude: readonly string[]): (name: string) => boolean {
  const patterns = exclude.map(globMatcher);
  return (name) => !patterns.some((fits) => fits(name));
}

interface Found {
  readonly path: string;
  /** What the last pattern in the path stands for: `web1` of `/run/web1.qmp` by `/run/*.qmp`, and by `/run/*` + `/qmp`. */
  readonly name: string;
}

/** In order of their paths. */
async function pathsLike(pattern: string): Promise<readonly Found[]> {
  let found: readonly Found[] = [{ path: '/', name: '' }];
  for (const part of pattern.split('/').filter((each) => each !== '')) {
    const fits = globMatcher(part);
    const isPattern = /[*?]/.test(part);
    const below = await Promise.all(
      found.map(async ({ path, name }) => {
        if (!isPattern) return [{ path: join(path, part), name }];
        return (await namesIn(path)).filter(fits).map((each) => ({ path: join(path, each), name: starOf(part, each) }));
      }),
    );
    found = below.flat();
  }
  return found;
}

/** A name without what is the same of all: what stands before the first sign of the pattern, and behind the last. */
function starOf(pattern: string, name: string): string {
  const [, before = '', after = ''] = /^([^*?]*).*?([^*?]*)$/s.exec(pattern) ?? [];
  return name.slice(before.length, name.length - after.length);
}

async function isSocket(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isSocket();
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return false;
    throw fileError('look at', path, error);
  }
}

async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    return (await readdir(folder)).toSorted();
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return [];
    throw fileError('look for sockets in', folder, error);
  }
}
