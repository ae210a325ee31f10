import { fileNode } from '../core/block-node.js';
import type { QmpClient } from '../qmp/client.js';
import { run } from '../qmp/commands.js';
import { QmpCommandError } from '../qmp/errors.js';

/**
 * Keeps a VM where it is. QEMU refuses every migration, and every snapshot of the whole VM, for as long as an image of a format
 * is open that does not support them, and VHD is one. It refuses to open one while a migration is under way, so that there
 * is no moment in between. Without this a migration of a fleeced VM "completes", and the guest dies at its first write.
 */
export type Stay =
  | { readonly kind: 'held' }
  /** A migration is under way, or a snapshot of the whole VM. */
  | { readonly kind: 'moving'; readonly words: string }
  /** This QEMU does not let itself be held. */
  | { readonly kind: 'free'; readonly words: string };

/** `image` is a VHD. Its name is needed no longer when this returns. */
export async function stayHere(client: QmpClient, node: string, image: string): Promise<Stay> {
  try {
    await run(client, 'blockdev-add', {
      driver: 'vpc',
      'node-name': node,
      'read-only': true,
      file: fileNode(image, { 'read-only': true }),
    });
    return { kind: 'held' };
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    return { kind: /in progress/.test(error.desc) ? 'moving' : 'free', words: error.desc };
  }
}

/** The VM may be migrated again. Not to have been held is no error. */
export async function mayGo(client: QmpClient, node: string): Promise<void> {
  try {
    await run(client, 'blockdev-del', { 'node-name': node });
  } catch (error) {
    if (!(error instanceof QmpCommandError && /Failed to find node/.test(error.desc))) throw error;
  }
}
