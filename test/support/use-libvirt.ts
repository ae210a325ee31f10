import { afterAll, beforeAll } from 'vitest';
import { type LibvirtLab, startLibvirt } from './lab/libvirt.js';

/**
 * A libvirt for the tests of a file (or of the `describe` that calls it): started before them and before the hooks that follow,
 * ended after them. It is there once they run, and not while they are collected.
 */
export function useLibvirt(): LibvirtLab {
  let lab: LibvirtLab | undefined;
  beforeAll(async () => {
    lab = await startLibvirt();
  });
  afterAll(async () => {
    await lab?.close();
  });
  return new Proxy({} as LibvirtLab, {
    get: (_, property): unknown => {
      if (!lab) throw new Error(`the libvirt of these tests has not been started: ${String(property)}`);
      return Reflect.get(lab, property);
    },
  });
}
