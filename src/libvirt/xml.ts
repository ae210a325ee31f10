/** XML as a tree of elements, in document order, all values as text. */
import { type X2jOptions, XMLParser } from 'fast-xml-parser';
import { LibvirtAnswerError } from './errors.js';

export interface XmlElement {
  /** With its prefix, as `qemu:commandline`. */
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  /** Elements and the text between them, in order. Comments are not kept. */
  readonly nodes: readonly XmlNode[];
  /** The elements of `nodes`. */
  readonly children: readonly XmlElement[];
  /** The text of `nodes`; between the children of an element that is what sets them in lines. */
  readonly text: string;
}

export type XmlNode = string | XmlElement;

const OPTIONS: X2jOptions = {
  preserveOrder: true,
  ignoreAttributes: false,
  attributeNamePrefix: '',
  parseTagValue: false,
  parseAttributeValue: false,
  trimValues: false,
  // A path or a description must come back as it went in, a line break (&#10;) too.
  htmlEntities: true,
};

/** The root element. Throws `LibvirtAnswerError` for text that is no well-formed document with that root. */
export function parseXml(text: string, root: string): XmlElement {
  let rows: unknown;
  try {
    rows = new XMLParser(OPTIONS).parse(text, true);
  } catch (cause) {
    throw new LibvirtAnswerError(`the <${root}> of libvirt`, text, { cause });
  }
  const found = nodesOf(rows).find((node) => typeof node !== 'string' && node.name === root);
  if (found === undefined || typeof found === 'string') throw new LibvirtAnswerError(`the <${root}> of libvirt`, text);
  return found;
}

/** The first element at a path of names below this one. */
export function find(element: XmlElement | undefined, ...path: readonly string[]): XmlElement | undefined {
  return path.reduce((at, name) => at?.children.find((child) => child.name === name), element);
}

export function findAll(element: XmlElement | undefined, name: string): readonly XmlElement[] {
  return element?.children.filter((child) => child.name === name) ?? [];
}

/** The text of an element at a path, or null when there is none or it is empty. */
export function textAt(element: XmlElement | undefined, ...path: readonly string[]): string | null {
  const text = find(element, ...path)?.text ?? '';
  return text === '' ? null : text;
}

export function attribute(element: XmlElement | undefined, name: string): string | null {
  return element?.attributes.get(name) ?? null;
}

/** For text and for attributes in either kind of quotes. */
export function escapeXml(text: string): string {
  return text.replace(/[&<>'"\t\n\r]/g, (character) => ESCAPES[character] ?? character);
}

const ESCAPES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  "'": '&apos;',
  '"': '&quot;',
  '\t': '&#9;',
  '\n': '&#10;',
  '\r': '&#13;',
};

/** preserveOrder gives rows like `[{ disk: [...children], ':@': { type: 'file' } }, { '#text': '…' }]`. */
function nodesOf(rows: unknown): XmlNode[] {
  return records(rows).flatMap((row): XmlNode[] => {
    const text = row[TEXT];
    if (typeof text === 'string') return [text];
    const name = Object.keys(row).find((key) => key !== ATTRIBUTES && key !== TEXT);
    if (name === undefined) return [];
    const attributes = records([row[ATTRIBUTES]]).flatMap((values) => Object.entries(values));
    return [makeElement(name, new Map(attributes.map(([key, value]) => [key, String(value)])), nodesOf(row[name]))];
  });
}

export function makeElement(
  name: string,
  attributes: ReadonlyMap<string, string>,
  nodes: readonly XmlNode[],
): XmlElement {
  return {
    name,
    attributes,
    nodes,
    children: nodes.filter((node) => typeof node !== 'string'),
    text: nodes.filter((node) => typeof node === 'string').join(''),
  };
}

const ATTRIBUTES = ':@';
const TEXT = '#text';

function records(value: unknown): Record<string, unknown>[] {
  if (!Array.isArray(value)) return [];
  return value.filter((row): row is Record<string, unknown> => typeof row === 'object' && row !== null);
}
