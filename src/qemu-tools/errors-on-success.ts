/**
 * What fails while an image that was written is closed, qemu-img and qemu-io say and end with 0 (7.2): `Failed to flush
 * the L2 table cache`, and the image is one of zeros, without a fault that a check could find. Their own lines count:
 * the dynamic linker, say, has its words there too. Null where there is none.
 */
export function untoldErrors(stderr: string): string | null {
  const errors = stderr.split('\n').filter((line) => /^qemu-(?:img|io): (?!warning: )/.test(line));
  return errors.length === 0 ? null : errors.join('\n');
}
