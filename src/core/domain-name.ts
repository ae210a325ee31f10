/**
 * Name and UUID of a VM from its domain XML, as libvirt itself writes it: they are the first two elements. XML of another
 * form tells nothing.
 */
export interface DomainName {
  readonly name: string;
  readonly uuid: string;
}

const BEGINNING =
  /^(?:\s|<\?xml[^>]*\?>|<!--(?:[^-]|-(?!->))*-->)*<domain(?:\s[^<>]*)?>\s*<name>([^<>]{1,255})<\/name>\s*<uuid>([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})<\/uuid>/i;

const ENTITIES: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

export function domainName(xml: string): DomainName | undefined {
  const [, name, uuid] = BEGINNING.exec(xml.slice(0, LIMIT)) ?? [];
  if (name === undefined || uuid === undefined) return undefined;
  return {
    name: name.replace(/&(amp|lt|gt|quot|apos);/g, (_, entity: string) => ENTITIES[entity] ?? ''),
    uuid: uuid.toLowerCase(),
  };
}

/** Characters; libvirt writes a comment of a few lines at most before the domain. */
const LIMIT = 16_384;
