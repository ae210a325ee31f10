import { open } from 'node:fs/promises';
import { run } from './programs.js';

/** Of a qcow2 image as `createImage` makes it, in bytes. */
const CLUSTER = 65_536;
const COMPRESSED_PLACE = (1n << 54n) - 1n;
const TABLE_PLACE = 0x00ff_ffff_ffff_fe00n;

/**
 * Makes one cluster of a qcow2 image that nobody has open unreadable: whoever reads it gets an I/O error, also with qemu-nbd. It is
 * made a compressed one that cannot be uncompressed. The guest's next write of the whole cluster heals it.
 */
export async function spoilCluster(file: string, offset: number): Promise<void> {
  const span = `${offset} ${CLUSTER}`;
  await run('qemu-io', ['-d', 'unmap', '-c', `discard ${span}`, '-c', `write -c -P 1 ${span}`, file]);
  const image = await open(file, 'r+');
  try {
    const entry = async (place: bigint): Promise<bigint> => {
      const bytes = Buffer.alloc(8);
      await image.read(bytes, 0, 8, Number(place));
      return bytes.readBigUInt64BE();
    };
    const index = BigInt(offset / CLUSTER);
    const perTable = BigInt(CLUSTER / 8);
    const l1 = (await entry(40n)) + (index / perTable) * 8n;
    const l2 = ((await entry(l1)) & TABLE_PLACE) + (index % perTable) * 8n;
    const place = Number((await entry(l2)) & COMPRESSED_PLACE);
    await image.write(Buffer.alloc(32, 0xff), 0, 32, place);
  } finally {
    await image.close();
  }
}
