import type { Notifier } from './notifiers.js';
import type { Place } from './place.js';
import type { RunSettings } from './run-settings.js';

/** A configuration that was read and is right, with where each of its values stands. */
export interface Config {
  /** Absolute path of the file. */
  readonly file: string;
  readonly defaults: Settings;
  /** By name, in the order of the file. */
  readonly vms: ReadonlyMap<string, ConfiguredVm>;
  readonly discover: readonly Discover[];
  readonly run: RunSettings;
  readonly notify: readonly Notifier[];
  /** Null where no report is made. */
  readonly report: ReportSettings | null;
}

/** The section `report`: what `run` shows of all VMs when it is done. */
export interface ReportSettings {
  /** Absolute path: a folder, or FILE.html. */
  readonly output: string;
}

export interface ConfiguredVm {
  readonly place: Place;
  readonly settings: Settings;
}

/** By key, such as `keep.daily`. */
export type Settings = ReadonlyMap<string, Setting>;

export interface Setting {
  /** As the file has it, numbers as their text; null is: as if it were not given. */
  readonly given: Given | null;
  readonly place: Place;
}

export type Given = boolean | string | readonly string[] | Readonly<Record<string, string>>;

/** VMs that are found when they are asked for. */
export type Discover = DiscoverDomains | DiscoverSockets;

interface Discovering {
  readonly place: Place;
  /** Patterns of names that are left out. */
  readonly exclude: readonly string[];
}

export interface DiscoverDomains extends Discovering {
  readonly kind: 'domains';
  /** Of their names. */
  readonly pattern: string;
  /** URI of the libvirt that is asked; null is as virsh. */
  readonly connect: string | null;
}

export interface DiscoverSockets extends Discovering {
  readonly kind: 'sockets';
  /** Of their absolute paths; `*` and `?` stand for no slash. */
  readonly pattern: string;
  /** Where the agent of `{vm}` listens; null is nowhere. */
  readonly agentSocket: string | null;
}
