import type { NbdSource } from './nbd-address.js';
import type { Window } from './sample-windows.js';

/**
 * A block node as QEMU's blockdev-add and `json:` file names describe it, with all that is below it. What a node needs to
 * be opened, such as the id of a secret, is an option of that node.
 */
export interface BlockNodeSpec {
  readonly driver: string;
  readonly [option: string]: unknown;
}

type Options = Readonly<Record<string, unknown>>;

export function fileNode(filename: string, options: Options = {}): BlockNodeSpec {
  return { driver: 'file', filename, ...options };
}

/** `backing`: null names none, whatever the header says. */
export function qcow2Node(file: BlockNodeSpec, backing: BlockNodeSpec | null, options: Options = {}): BlockNodeSpec {
  return { driver: 'qcow2', file, backing, ...options };
}

/** A part of a node, as a disk of its own. */
export function windowOf(file: BlockNodeSpec, { offset, length }: Window): BlockNodeSpec {
  return { driver: 'raw', offset, size: length, file };
}

export function nbdNode({ address, exportName }: NbdSource): BlockNodeSpec {
  const server =
    address.kind === 'unix'
      ? { type: 'unix', path: address.path }
      : { type: 'inet', host: address.host, port: String(address.port) };
  return { driver: 'nbd', server, ...(exportName === '' ? {} : { export: exportName }) };
}

/** Reads its first child, the next where that fails; calls zero what all of them call zero, and makes data of the rest. */
export function quorumNode(children: readonly BlockNodeSpec[]): BlockNodeSpec {
  return { driver: 'quorum', 'vote-threshold': 1, 'read-pattern': 'fifo', children };
}

/** As a file name, which QEMU and its programs take wherever they take one. */
export function nameOfNode(node: BlockNodeSpec): string {
  return `json:${JSON.stringify(node)}`;
}
