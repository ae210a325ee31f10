/** Bytes of the path of a UNIX socket: `sun_path` holds 108 with a NUL, and Node and QEMU cut a longer path short without a word. */
export const MAX_SOCKET_PATH = 107;

export function isSocketPath(path: string): boolean {
  return new TextEncoder().encode(path).length <= MAX_SOCKET_PATH;
}
