import { sparseHeader, TAR_END, tarHeader, tarPadding } from '../../archive/tar-headers.js';
import type { RawSink } from '../../backends/raw-sink.js';
import { rawFileName } from '../../core/names.js';
import { totalLength } from '../../core/extents.js';

/** Raw images with holes as members of a tar archive, for who takes it as fast as it likes. */
export function rawTar(archive: (bytes: Buffer) => Promise<void>, now: () => Date): RawSink {
  const entryOf = (path: string) => ({ path, mode: 0o600, uid: 0, gid: 0, mtime: now().getTime() / 1000 });
  return {
    disk: async (disk, shape) => {
      await archive(sparseHeader({ ...entryOf(rawFileName(disk)), ...shape }));
      return {
        write: (_offset, bytes) => archive(bytes),
        end: () => archive(tarPadding(totalLength(shape.spans))),
      };
    },
    file: (path, bytes) => {
      const header = tarHeader({ ...entryOf(path), type: '0', size: bytes.length });
      return archive(Buffer.concat([header, bytes, tarPadding(bytes.length)]));
    },
    end: () => archive(TAR_END),
  };
}
