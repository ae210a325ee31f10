import type { Connect } from '../core/virsh-hint.js';
import type { RunningBackup } from './backup-xml.js';
import type { Checkpoint } from './checkpoint-xml.js';
import type { DomainDefinition } from './domain-xml.js';
import type { DomainJobInfo } from './job-info.js';

export interface DomainState extends DomainDefinition {
  /** `running`, `paused`, `shut off`, `crashed`, `in shutdown`, `pmsuspended`, `idle`. */
  readonly state: string;
  /** `booted`, `user`, `I/O error`, `crashed` …; empty when libvirt says none. */
  readonly stateReason: string;
  /** What `virsh dumpxml` said, for the point. */
  readonly xml: string;
  /** By target; null where libvirt cannot tell (a drive without a medium, an image that is gone). */
  readonly sizes: ReadonlyMap<string, DiskSize | null>;
  /** By target, in the words of who was asked, where it is known why there is no size. */
  readonly unsized: ReadonlyMap<string, string>;
  /** Oldest first. */
  readonly checkpoints: readonly Checkpoint[];
  readonly job: DomainJobInfo | null;
  /** Jobs of single disks: what libvirt calls them, by target. Not asked where sizes of checkpoints are not. */
  readonly blockJobs: ReadonlyMap<string, string>;
  /** Which libvirt runs it. */
  readonly connect: Connect;
  /** The backup that `job` is, if it is one. */
  readonly backup: RunningBackup | null;
}

export interface DiskSize {
  /** Bytes that the guest sees. */
  readonly capacity: number;
  /** Bytes that the top image takes on its storage. */
  readonly allocation: number;
  /** Length of the file as libvirt's host has it; null where it is not told. */
  readonly physical: number | null;
}
