import type { NbdSource } from './nbd-address.js';

/** As NBD clients, qemu-img too, take it. */
export function nbdUri({ address, exportName }: NbdSource): string {
  const name = encodeURIComponent(exportName);
  if (address.kind === 'tcp') return `nbd://${address.host}:${address.port}/${name}`;
  return `nbd+unix:///${name}?socket=${address.path.split('/').map(encodeURIComponent).join('/')}`;
}
