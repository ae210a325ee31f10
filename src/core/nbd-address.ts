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
