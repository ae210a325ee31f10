/** Whether a name of a guest can be that of a file here; control characters would deceive whoever lists them. */
export function isSafeName(name: string): boolean {
  // eslint-disable-next-line no-control-regex
  return name !== '' && name !== '.' && name !== '..' && !/[/\x00-\x1f\x7f]/.test(name);
}
