import type { Endpoint } from '../qmp/endpoint.js';

/** Which VM, and the way to it. */
export type VmAddress =
  | { readonly kind: 'monitor'; readonly monitor: Endpoint }
  /** Name or UUID; `connect` is libvirt's URI, null virsh's own default. */
  | { readonly kind: 'domain'; readonly domain: string; readonly connect: string | null };

/** What a backup is made of: a VM, or the images of one that is off. */
export type BackupSource = VmAddress | { readonly kind: 'images'; readonly images: readonly NamedImage[] };

/** One that is asked, by its monitor or through libvirt. */
export type AskedVm = Extract<VmAddress, { readonly kind: 'monitor' | 'domain' }>;

/** An image of a VM that is off, as `--offline` names it. */
export interface NamedImage {
  /** The disk id. */
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  /** Null where it is to be told from the image. */
  readonly format: 'qcow2' | 'raw' | null;
}
