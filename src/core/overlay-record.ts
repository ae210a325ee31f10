/**
 * What was known of the images below an overlay that tracks, when they were seen last. The overlay holds what the guest has changed since
 * its point only for as long as nothing else writes to them.
 */
export interface OverlayRecord {
  /** Absolute path of the overlay. */
  readonly overlay: string;
  /** Nearest first. */
  readonly below: readonly ImageState[];
  /** A commit of ours, or a deletion of a bitmap, was about to write to them, and nobody has seen them since. */
  readonly changing: boolean;
  /** A run has told that the disk is attached no more. */
  readonly told?: true;
}

export interface ImageState {
  /** Absolute, or what libvirt calls it where it is no file. */
  readonly image: string;
  /** Bytes, and when the file was last written to, in nanoseconds since 1970; null where nothing of the kind tells: a device, or no file here. */
  readonly file: { readonly bytes: string; readonly modified: string } | null;
}

/** Why what an overlay holds is not all that has changed since its point, in words; null where it is, as far as files tell. */
export function whyNotStill(record: OverlayRecord | undefined, now: readonly ImageState[]): string | null {
  if (!record) return 'nothing tells how the images below it were when it was made';
  if (record.changing) return null;
  // An image may have another path: the same file, moved with its time, has the same bytes.
  const changed = now.find(({ file }, index) => !sameFile(record.below[index]?.file, file));
  if (changed) return `${changed.image} is not as it was: ${howOf(record, now.indexOf(changed), changed)}`;
  return record.below.length === now.length ? null : 'there are fewer images below it than there were';
}

function sameFile(then: ImageState['file'] | undefined, now: ImageState['file']): boolean {
  if (then === undefined) return false;
  if (then === null || now === null) return then === now;
  return then.bytes === now.bytes && then.modified === now.modified;
}

function howOf({ below }: OverlayRecord, index: number, { file: now }: ImageState): string {
  const then = below[index]?.file;
  if (then == null || now === null) return 'another image lies there';
  if (then.modified === now.modified) return `it has ${now.bytes} bytes, and had ${then.bytes}`;
  return 'something else wrote to it, or put another in its place';
}
