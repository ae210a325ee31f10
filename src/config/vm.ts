import { dirname, isAbsolute, resolve } from 'node:path';
import { backupOptions } from '../backends/backup-options.js';
import type { OptionRule } from '../core/option-rules.js';
import { whyNotApart } from '../core/within-folder.js';
import { messageOf, QmpBackupError } from '../errors.js';
import { pruneOptions, type PruneRequest } from '../operations/prune/options.js';
import { verifyOptions, type VerifyRequest } from '../operations/verify/options.js';
import { describeEndpoint, parseEndpoint } from '../qmp/endpoint.js';
import type { Config, Given, Setting, Settings } from './config.js';
import { type Hooks, hooksFrom } from './hooks.js';
import type { Place } from './place.js';
import { IF_OFF, SETTINGS, type Verb } from './settings.js';

/** A VM with all that is said of it: its own values before those of what found it, and these before the defaults. */
export interface Vm {
  readonly name: string;
  /** Where it is named: `vms`, or the entry of `discover` that found it. */
  readonly place: Place;
  /** By key, only what is given; without nulls. */
  readonly values: ReadonlyMap<string, VmValue>;
}

export interface VmValue {
  readonly given: Given;
  readonly from: Origin;
}

export interface Origin {
  readonly kind: 'vms' | 'discover' | 'defaults';
  readonly place: Place;
}

/** What `discover` has found of a VM. */
export interface FoundVm {
  readonly name: string;
  readonly place: Place;
  readonly settings: Settings;
}

export function vmFrom({ defaults }: Config, kind: 'vms' | 'discover', { name, place, settings }: FoundVm): Vm {
  const values = new Map<string, VmValue>();
  for (const path of SETTINGS.keys()) {
    const own = settings.get(path);
    // A default that is for domains alone says nothing of another VM.
    const other = OF_DOMAINS.includes(path) && !settings.has('domain') ? undefined : defaults.get(path);
    const setting = own ?? other;
    if (!setting || setting.given === null) continue;
    values.set(path, {
      given: isForShell(path, setting.given) ? setting.given : withName(setting.given, name),
      from: { kind: own ? kind : 'defaults', place: setting.place },
    });
  }
  // prune and verify look for the folder <target>/<vm name>.
  const monthly = values.get('monthly');
  if (monthly?.given === true && !values.has('vm-name')) values.set('vm-name', { given: name, from: monthly.from });
  return { name, place, values };
}

const OF_DOMAINS = ['connect', 'start-paused', 'method', 'track', 'overlay-dir', 'kill-job'];

/** A setting that was found and stands in no file. */
export function foundSetting(given: Given, place: Place): Setting {
  return { given, place };
}

/** A hook of one text is a script, and a name is no part of a script: it is in the environment. */
function isForShell(path: string, given: Given): boolean {
  return path.startsWith('hooks.') && typeof given === 'string';
}

/** `{vm}` in any text. */
function withName(given: Given, name: string): Given {
  const put = (text: string): string => text.replaceAll('{vm}', name);
  if (typeof given === 'string') return put(given);
  if (typeof given === 'boolean') return given;
  if (Array.isArray(given)) return (given as readonly string[]).map(put);
  return Object.fromEntries(Object.entries(given).map(([key, text]) => [key, put(text)]));
}

/** What a setting comes to by its rule: the value given, or the one built in. */
export function valueOf<Value>(vm: Vm, path: string, rule: OptionRule<never, Value>): Value | undefined {
  const found = vm.values.get(path);
  return found ? rule.read(found.given as never) : rule.fallback;
}

export function settingAt(vm: Vm, path: string): string | null {
  const given = vm.values.get(path)?.given;
  return typeof given === 'string' ? given : null;
}

export function ifOff(vm: Vm): (typeof IF_OFF)[number] {
  const given = settingAt(vm, 'if-off');
  return IF_OFF.find((each) => each === given) ?? 'offline';
}

export function hooksOf({ values }: Vm): Hooks {
  return hooksFrom((key) => values.get(`hooks.${key}`)?.given);
}

/** The VM's own target; it is proved to be there. */
export function targetOf(vm: Vm): string {
  const target = settingAt(vm, 'target');
  if (target === null) throw new QmpBackupError('usage', `${vm.name} has no target`);
  return target;
}

/** Whether it runs or is off, as far as that decides which of its disks are read how. */
export type Power = 'running' | 'off';

/** Keys of a VM that is reached by its monitor, which do not go with the images of one that is off. */
const OF_A_MONITOR = ['socket', 'agent-socket', 'domain', 'connect', 'quiesce', 'freeze-timeout', 'freeze-limit'];

/** What of the VM's values a verb is asked. `power`: a VM whose images are named has them read only while it is off. */
export function optionsFor(vm: Vm, verb: Verb, power: Power = 'running'): readonly VerbValue[] {
  const images = power === 'off' && vm.values.has('offline');
  const left = images ? OF_A_MONITOR : vm.values.has('socket') || vm.values.has('domain') ? ['offline'] : [];
  return [...vm.values].flatMap(([path, { given }]) => {
    if (verb === 'backup' && left.includes(path)) return [];
    // Elsewhere it is the name of a folder alone, which is there with `monthly`.
    if (verb !== 'backup' && path === 'vm-name' && vm.values.get('monthly')?.given !== true) return [];
    const option = SETTINGS.get(path)?.options.find((each) => each.verb === verb);
    return option ? [{ ...option, given }] : [];
  });
}

export interface VerbValue {
  readonly name: string;
  readonly rule: OptionRule<never, unknown>;
  readonly given: Given;
}

/** Whether anything is said of which points are kept: without, nothing is pruned. */
export function isPruned(vm: Vm): boolean {
  return [...vm.values.keys()].some((path) => path.startsWith('keep.'));
}

/**
 * What is wrong with a VM as a whole: options that are missing, or exclude each other.
 *
 * @throws QmpBackupError `usage`, without the place
 */
export function refuseWrong(vm: Vm): void {
  const { name, values } = vm;
  if (!values.has('target'))
    throw usage(`${name} has no target`, 'Give it one, or give one in defaults: target: /backup/{vm}');
  if (!['socket', 'domain', 'offline'].some((path) => values.has(path))) {
    throw usage(
      `nothing says how ${name} is reached`,
      'Give it a socket or a domain, or images of a VM that is off (offline).',
    );
  }
  for (const [path, value] of pathsIn(vm)) {
    if (isAbsolute(value)) continue;
    throw usage(
      `${path} of ${name} is not an absolute path: ${value}`,
      'A timer starts runs in another folder than you do: give the whole path.',
    );
  }
  const requested = (verb: Verb, power?: Power): object =>
    Object.fromEntries(optionsFor(vm, verb, power).map(({ name: key, given }) => [key, given]));
  backupOptions(requested('backup'));
  if (values.has('offline')) backupOptions(requested('backup', 'off'));
  if (isPruned(vm)) pruneOptions(requested('prune') as PruneRequest);
  const boot = values.has('verify.boot-every');
  verifyOptions({ ...requested('verify'), boot } as VerifyRequest);
}

/** All that is a path of this host, by key. */
function pathsIn(vm: Vm): readonly (readonly [string, string])[] {
  const folders = ['target', 'fleece-dir', 'overlay-dir'].map((path) => [path, settingAt(vm, path)] as const);
  const sockets = ['socket', 'agent-socket'].map((path) => [path, socketPath(settingAt(vm, path))] as const);
  const images = vm.values.get('offline')?.given ?? {};
  const files = typeof images === 'object' ? Object.entries(images).map(([, file]) => ['offline', file] as const) : [];
  return [...folders, ...sockets, ...files].flatMap(([path, value]) => (value === null ? [] : [[path, value]]));
}

function socketPath(socket: string | null): string | null {
  const endpoint = socket === null ? null : parseEndpoint(socket);
  return endpoint?.kind === 'unix' ? endpoint.path : null;
}

function usage(words: string, hint: string): QmpBackupError {
  return new QmpBackupError('usage', words, { hint });
}

/**
 * Proves all VMs, each by itself and beside the others.
 *
 * @throws QmpBackupError `usage`, of all that are wrong
 */
export function refuseWrongVms({ file }: Pick<Config, 'file'>, vms: readonly Vm[]): void {
  const wrong: { readonly place: Place; readonly why: string }[] = [];
  const owners = new Map<string, string>();
  const complain = (vm: Vm, error: unknown): void => {
    if (!(error instanceof QmpBackupError)) throw error;
    const hint = error.hint === undefined ? '' : ` (${error.hint})`;
    wrong.push({ place: vm.place, why: `${prefixOf(vm, error)}${messageOf(error)}${hint}` });
  };
  for (const vm of vms) {
    try {
      refuseWrong(vm);
      for (const [what, key] of ownedBy(vm)) {
        const other = owners.get(key);
        if (other !== undefined) throw new QmpBackupError('usage', `${vm.name} and ${other} have the same ${what}`);
        owners.set(key, vm.name);
      }
    } catch (error) {
      complain(vm, error);
    }
  }
  const targets = vms.flatMap((vm) => settingAt(vm, 'target') ?? []);
  for (const vm of wrong.length === 0 ? vms : []) {
    const overlays = settingAt(vm, 'overlay-dir');
    const why =
      overlays === null ? null : targets.flatMap((each) => whyNotApart(resolve(overlays), resolve(each)) ?? []).at(0);
    if (why) complain(vm, usage(why, 'Choose an overlay-dir outside of every target and not above one.'));
    const folder = folderOf(vm);
    const above = foldersAbove(folder).find((each) => owners.has(targetKey(each)));
    if (above === undefined) continue;
    const owner = owners.get(targetKey(above));
    complain(
      vm,
      usage(`target ${folder} of ${vm.name} is inside that of ${owner}`, 'Give each VM a folder of its own.'),
    );
  }
  if (wrong.length === 0) return;
  const told = wrong.map(({ place, why }) => `${file}:${place.line}:${place.column}: ${why}`);
  throw new QmpBackupError('usage', told.join('\n'), {
    hint: 'qmpbackup config show VM tells where each value comes from.',
  });
}

function prefixOf({ name }: Vm, error: QmpBackupError): string {
  return error.message.startsWith(`${name} `) ? '' : `${name}: `;
}

/** What two VMs cannot share: one would be taken for the other. */
function ownedBy(vm: Vm): readonly (readonly [string, string])[] {
  const [socket, domain] = ['socket', 'domain'].map((path) => settingAt(vm, path));
  return [
    ['target', targetKey(folderOf(vm))],
    ...(typeof socket === 'string' ? [['socket', `socket ${normalSocket(socket)}`] as const] : []),
    ...(typeof domain === 'string' ? [['domain', `domain ${settingAt(vm, 'connect') ?? ''} ${domain}`] as const] : []),
  ];
}

/** Where its backups are and no others: of `monthly` those of all months. */
export function folderOf(vm: Vm): string {
  const folder = vm.values.get('monthly')?.given === true ? settingAt(vm, 'vm-name') : null;
  return resolve(targetOf(vm), folder ?? '');
}

function targetKey(folder: string): string {
  return `target ${folder}`;
}

function foldersAbove(folder: string): readonly string[] {
  const above = dirname(folder);
  return above === folder ? [] : [above, ...foldersAbove(above)];
}

function normalSocket(socket: string): string {
  const endpoint = parseEndpoint(socket);
  return describeEndpoint(endpoint.kind === 'unix' ? { ...endpoint, path: resolve(endpoint.path) } : endpoint);
}
