/** Bytes of a sector, which is also what the footer of a VHD takes. */
const SECTOR = 512;
const FIXED = 2;
const NO_OFFSET = 0xffff_ffff;

/** A valid VHD image (format `vpc`) of one sector: a fixed disk is its bytes, and a footer after them. */
export function smallestVhd(): Uint8Array {
  const image = new Uint8Array(2 * SECTOR);
  const footer = image.subarray(SECTOR);
  const view = new DataView(image.buffer, SECTOR);
  const text = (at: number, words: string): void => footer.set(new TextEncoder().encode(words), at);
  text(0, 'conectix');
  view.setUint32(8, 2); // features: reserved, always set
  view.setUint32(12, 0x0001_0000); // version
  view.setUint32(16, NO_OFFSET);
  view.setUint32(20, NO_OFFSET);
  text(28, 'qem2'); // by this creator QEMU takes the size from the next fields, and not from the geometry
  view.setUint32(44, SECTOR); // original size, the lower half
  view.setUint32(52, SECTOR); // current size, the lower half
  view.setUint32(56, 0x0001_0101); // 1 cylinder, 1 head, 1 sector
  view.setUint32(60, FIXED);
  view.setUint32(64, ~footer.reduce((sum, byte) => sum + byte, 0) >>> 0); // checksum, counted without itself
  return image;
}
