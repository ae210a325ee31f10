/** Whether a path is that of the folder, or below it. Both are absolute and normal. */
export function isWithinFolder(path: string, folder: string): boolean {
  return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`);
}

/**
 * A guest writes to its overlays, and whoever tidies up, fills or unmounts a target knows nothing of that: neither folder is inside of
 * the other. Why they may not go together, in words; null where they may.
 */
export function whyNotApart(overlays: string, target: string): string | null {
  if (isWithinFolder(overlays, target))
    return `the folder of the overlays, ${overlays}, is inside of the target ${target}`;
  if (isWithinFolder(target, overlays))
    return `the target ${target} is inside of the folder of the overlays, ${overlays}`;
  return null;
}
