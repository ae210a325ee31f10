import { runShort } from './runner.js';

/** `7.2.22` of `qemu-img version 7.2.22 (Debian …)`. @throws QemuImgMissing */
export async function qemuImgVersion(): Promise<string> {
  const { stdout } = await runShort(['--version']);
  return /version ([\w.]+)/.exec(stdout)?.[1] ?? 'unknown';
}
