import { readdir } from 'node:fs/promises';

/** Names of the images in the folder of a disk, without the lists of their pieces; sorted. */
export async function imagesIn(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter((name) => name.endsWith('.qcow2')).toSorted();
}

/** Of files of a target, by their paths in it, what no run that has ended may leave. */
export function straysOf(files: readonly string[]): readonly string[] {
  const isStray = (file: string): boolean =>
    /\.partial$|\.tmp$|run\.json|lock/.test(file) || (file.endsWith('.pieces') && !files.includes(file.slice(0, -7)));
  return files.filter(isStray);
}
