import { TAR_END, tarHeader, tarPadding } from '../archive/tar-headers.js';
import type { FileSink } from './file-sink.js';
import type { LocatedFile } from './reader.js';

/** A tar archive (POSIX pax), written as it is read. */
export function tarSink(write: (bytes: Buffer) => Promise<void>): FileSink {
  const header = (path: string, file: LocatedFile, type: string, size: number, target = ''): Promise<void> =>
    write(tarHeader({ path, mode: file.mode, uid: file.uid, gid: file.gid, size, mtime: file.mtime, type, target }));
  return {
    folder: (path, file) => header(`${path}/`, file, '5', 0),
    link: (path, file, target) => header(path, { ...file, mode: 0o777 }, '2', 0, target),
    file: async (path, file, read) => {
      await header(path, file, '0', file.size);
      await read(write);
      await write(tarPadding(file.size));
    },
    end: () => write(TAR_END),
  };
}
