import type { LocatedFile } from './reader.js';

/** Takes what `get` reads. Paths are relative, of components that were checked, a folder before what is in it. */
export interface FileSink {
  readonly folder: (path: string, file: LocatedFile) => Promise<void>;
  readonly link: (path: string, file: LocatedFile, target: string) => Promise<void>;
  readonly file: (path: string, file: LocatedFile, read: ReadInto) => Promise<void>;
  /** All is written: times and modes of folders, the end of an archive. */
  readonly end: () => Promise<void>;
}

export type ReadInto = (take: (bytes: Buffer) => Promise<void>) => Promise<void>;
