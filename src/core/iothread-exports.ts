/** The first QEMU that was seen to live through it. */
const SAFE_SINCE = 10;

/**
 * QEMU 7.2 aborts when a client leaves an NBD export of a disk that an iothread serves (`nbd_blockdev_client_closed:
 * Assertion qemu_in_main_thread()`), and with it the guest: seen at the first pull. Which disks those are, each device says in
 * its own way: so wherever there is an iothread.
 */
export function survivesReaders(qemuMajor: number | null): boolean {
  return qemuMajor !== null && qemuMajor >= SAFE_SINCE;
}

/** Why not, after `the VM`. */
export const DIES_OF_NBD = `has iothreads, and a QEMU before ${SAFE_SINCE} aborts, with the guest, when a disk in one has been read over NBD`;
