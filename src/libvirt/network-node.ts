import { type BlockNodeSpec, nbdNode } from '../core/block-node.js';
import type { NbdAddress } from '../core/nbd-address.js';
import type { NetworkSource } from './domain-xml.js';

/**
 * A network disk as a block node for QEMU's own programs, which reach it as the domain's QEMU would; in words why not, where
 * only libvirt has what that takes.
 */
export function networkNode(source: NetworkSource): BlockNodeSpec | { readonly why: string } {
  const { protocol, hosts, secret, tls } = source;
  if (secret) return { why: 'its key or password is a secret that libvirt keeps' };
  if (tls) return { why: 'it is reached by TLS, whose keys libvirt keeps' };
  const odd = hosts.find(({ transport }) => transport !== 'tcp' && transport !== 'unix');
  if (odd) return { why: `it is reached by ${odd.transport}` };
  switch (protocol) {
    case 'nbd':
      return nbd(source);
    case 'rbd':
      return rbd(source);
    case 'iscsi':
      return iscsi(source);
    default:
      return { why: `it is reached by ${protocol}` };
  }
}

export function isNode(node: BlockNodeSpec | { readonly why: string }): node is BlockNodeSpec {
  return !('why' in node);
}

const NBD_PORT = '10809';
const RBD_PORT = '6789';
const ISCSI_PORT = '3260';

function nbd({ name, hosts: [host] }: NetworkSource): BlockNodeSpec {
  const address: NbdAddress =
    host?.transport === 'unix'
      ? { kind: 'unix', path: host.socket ?? '' }
      : { kind: 'tcp', host: host?.name ?? 'localhost', port: Number(host?.port ?? NBD_PORT) };
  return nbdNode({ address, exportName: name ?? '' });
}

/** `pool/image` or `pool/namespace/image`. Without hosts Ceph's own configuration knows them. */
function rbd({ name, hosts, snapshot, config }: NetworkSource): BlockNodeSpec | { readonly why: string } {
  const parts = (name ?? '').split('/');
  const [pool, image] = [parts[0], parts.at(-1)];
  if (parts.length < 2 || parts.length > 3)
    return { why: `${name ?? 'an image without a name'} names no pool and image` };
  return {
    ...{ driver: 'rbd', pool, image },
    ...(parts.length === 3 ? { namespace: parts[1] } : {}),
    ...(hosts.length > 0
      ? { server: hosts.map((each) => ({ host: each.name ?? '', port: each.port ?? RBD_PORT })) }
      : {}),
    ...(config === null ? {} : { conf: config }),
    ...(snapshot === null ? {} : { snapshot }),
  };
}

/** `iqn.2020-01.org.example:target/1`: the last part is the number of the unit, 0 unless told. */
function iscsi({ name, hosts: [host], initiator }: NetworkSource): BlockNodeSpec | { readonly why: string } {
  const [, target, lun = '0'] = /^([^/]+)(?:\/(\d+))?$/.exec(name ?? '') ?? [];
  if (target === undefined) return { why: `${name ?? 'a unit without a name'} names no target` };
  const address = host?.name?.includes(':') ? `[${host.name}]` : (host?.name ?? '');
  return {
    ...{
      driver: 'iscsi',
      transport: 'tcp',
      portal: `${address}:${host?.port ?? ISCSI_PORT}`,
      target,
      lun: Number(lun),
    },
    ...(initiator === null ? {} : { 'initiator-name': initiator }),
  };
}
