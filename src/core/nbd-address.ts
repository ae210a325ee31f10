/** Where an NBD server listens. */
export type NbdAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** One disk of a server. */
export interface NbdSource {
  readonly address: NbdAddress;
  readonly exportName: string;
}

/** For people. */
export function describeAddress(address: NbdAddress): string {
  if (address.kind === 'unix') return address.path;
  return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${address.port}`;
}

/** The export as a block node of QEMU. */
export function nbdNode({ address, exportName }: NbdSource): object {
  const server =
    address.kind === 'unix'
      ? { type: 'unix', path: address.path }
      : { type: 'inet', host: address.host, port: String(address.port) };
  return { driver: 'nbd', server, export: exportName };
}
