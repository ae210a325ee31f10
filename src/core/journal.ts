import * as v from 'valibot';
import { bitmapNameSchema, componentSchema, textSchema } from './point.js';

/** The VM in which a run may leave something. */
export type JournalOwner =
  /** The run has nothing to do with a VM. */
  | { readonly kind: 'none' }
  /** As `describeEndpoint`. */
  | { readonly kind: 'monitor'; readonly endpoint: string }
  | { readonly kind: 'domain'; readonly uuid: string };

/** Who is asked to thaw the guest that a run may leave frozen: an agent (as `describeEndpoint`), or libvirt. */
export type FrozenGuest =
  { readonly kind: 'agent'; readonly endpoint: string } | { readonly kind: 'domain'; readonly uuid: string };

export const JOURNAL_SCHEMA = 1;

const journalDisk = v.object({
  disk: componentSchema,
  /** Name of the attempt's new bitmap, or null where none is added. */
  bitmap: v.nullable(bitmapNameSchema),
  job: v.string(),
  file: componentSchema,
});

const written = v.object({
  schema: v.literal(JOURNAL_SCHEMA),
  attempt: v.string(),
  startedAt: v.string(),
  /** What the run does, for people. */
  what: v.string(),
  /** As text of `JournalOwner`. */
  monitor: v.string(),
  vm: v.object({ uuid: textSchema, name: textSchema, label: textSchema }),
  disks: v.array(journalDisk),
  /** Folders, relative to the target, that the run made. */
  madeFolders: v.array(componentSchema),
  /** As text of `FrozenGuest`; null where the run does not freeze. */
  freezes: textSchema,
  /** Written before the VM is stopped. */
  stops: v.boolean(),
  /** Folders of the scratch images of fleecing; absolute paths. */
  scratch: v.optional(v.array(v.string()), []),
  /** The run starts QEMU's NBD server. */
  servesNbd: v.optional(v.boolean(), false),
  /** The libvirt domain (UUID) that the run starts, paused, and ends again. */
  starts: v.optional(v.string()),
  /** Overlays above the disks of a domain that the run makes, or that it merges down once its point is sealed. */
  overlays: v.optional(
    v.array(
      v.object({
        /** Target of the disk. */
        target: v.string(),
        /** Absolute. */
        path: v.string(),
      }),
    ),
  ),
});

type Written = v.InferOutput<typeof written>;

export type JournalledDisk = v.InferOutput<typeof journalDisk>;

/** `run.json`: what a run may leave behind in QEMU and in the target, written before it changes anything. */
export interface Journal extends Omit<Written, 'monitor' | 'freezes'> {
  readonly owner: JournalOwner;
  /** Written before the guest is frozen. */
  readonly freezes: FrozenGuest | null;
}

const DOMAIN = 'libvirt domain ';
const FROZEN_DOMAIN = 'libvirt:';

/** Checks a parsed `run.json`; undefined when it has another shape. */
export function readJournalValue(value: unknown): Journal | undefined {
  const result = v.safeParse(written, value, { abortEarly: true });
  if (!result.success) return undefined;
  const { monitor, freezes, ...rest } = result.output;
  return { ...rest, owner: ownerOf(monitor), freezes: freezes === null ? null : frozenGuestOf(freezes) };
}

/** What `run.json` holds. */
export function journalValue({ owner, freezes, ...rest }: Journal): unknown {
  return { ...rest, monitor: ownerText(owner), freezes: freezes && frozenText(freezes) };
}

function ownerOf(text: string): JournalOwner {
  if (text === '') return { kind: 'none' };
  if (text.startsWith(DOMAIN)) return { kind: 'domain', uuid: text.slice(DOMAIN.length) };
  return { kind: 'monitor', endpoint: text };
}

/** Also for people; empty where there is no VM. */
export function ownerText(owner: JournalOwner): string {
  switch (owner.kind) {
    case 'none':
      return '';
    case 'monitor':
      return owner.endpoint;
    case 'domain':
      return `${DOMAIN}${owner.uuid}`;
  }
}

function frozenGuestOf(text: string): FrozenGuest {
  if (text.startsWith(FROZEN_DOMAIN)) return { kind: 'domain', uuid: text.slice(FROZEN_DOMAIN.length) };
  return { kind: 'agent', endpoint: text };
}

function frozenText(guest: FrozenGuest): string {
  return guest.kind === 'domain' ? `${FROZEN_DOMAIN}${guest.uuid}` : guest.endpoint;
}
