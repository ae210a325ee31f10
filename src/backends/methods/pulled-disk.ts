import type { NbdSource } from '../../core/nbd-address.js';
import type { OpenFile } from '../../repository/open-point.js';
import type { StagedImage } from '../copy-method.js';

/** An image to be filled, and where its bytes are. */
export interface PulledDisk extends StagedImage {
  readonly source: NbdSource;
  /** The dirty bitmap's name in the export, or `OWN_CLUSTERS`; null for all of the disk. */
  readonly bitmap: string | null;
  /** The chain that it is compared with, FULL first; null where it is not. */
  readonly below: readonly OpenFile[] | null;
  /**
   * Where the server answers rightly of single clusters only (`answersByCluster`): the name of the export, on the same server, of what
   * the guest has overwritten.
   */
  readonly overwritten?: string | null;
}
