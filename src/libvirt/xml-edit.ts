/** Changes to a document that leave all else as it was, and the document as text again. Nothing is changed in place. */
import { escapeXml, makeElement, type XmlElement, type XmlNode } from './xml.js';

/** `edit` for each child; null takes the child out, with the line that it is on. */
export function editChildren(element: XmlElement, edit: (child: XmlElement) => XmlElement | null): XmlElement {
  const nodes: XmlNode[] = [];
  for (const node of element.nodes) {
    const edited = typeof node === 'string' ? node : edit(node);
    if (edited !== null) nodes.push(edited);
    else if (isBlank(nodes.at(-1))) nodes.pop();
  }
  return withNodes(element, nodes);
}

/** `edit` for every element at a path of names below this one; null takes it out. */
export function editAt(
  element: XmlElement,
  [name, ...rest]: readonly string[],
  edit: (found: XmlElement) => XmlElement | null,
): XmlElement {
  return editChildren(element, (child) => {
    if (child.name !== name) return child;
    return rest.length === 0 ? edit(child) : editAt(child, rest, edit);
  });
}

export function removeChildren(element: XmlElement, names: readonly string[]): XmlElement {
  return editChildren(element, (child) => (names.includes(child.name) ? null : child));
}

/** Adds elements behind the last child, each on a line like the others. */
export function append(element: XmlElement, added: readonly XmlElement[]): XmlElement {
  const last = element.nodes.findLastIndex((node) => typeof node !== 'string');
  const [first] = element.nodes;
  const line = last > 0 && isBlank(first) ? [first] : [];
  const nodes = added.flatMap((each): XmlNode[] => [...line, each]);
  return withNodes(element, [...element.nodes.slice(0, last + 1), ...nodes, ...element.nodes.slice(last + 1)]);
}

/** Sets attributes; null takes one away. */
export function withAttributes(element: XmlElement, changes: Readonly<Record<string, string | null>>): XmlElement {
  const attributes = new Map(element.attributes);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) attributes.delete(name);
    else attributes.set(name, value);
  }
  return makeElement(element.name, attributes, element.nodes);
}

/** The element with nothing but this text in it; empty without. */
export function withText(element: XmlElement, text: string): XmlElement {
  return withNodes(element, text === '' ? [] : [text]);
}

export function element(name: string, attributes: Readonly<Record<string, string>>, text = ''): XmlElement {
  return makeElement(name, new Map(Object.entries(attributes)), text === '' ? [] : [text]);
}

/** The document of this root, with a line break at its end. */
export function writeXml(root: XmlElement): string {
  return `${written(root)}\n`;
}

function written({ name, attributes, nodes }: XmlElement): string {
  const head = [name, ...[...attributes].map(([key, value]) => `${key}='${escapeXml(value)}'`)].join(' ');
  if (nodes.length === 0) return `<${head}/>`;
  const inner = nodes.map((node) => (typeof node === 'string' ? escapeText(node) : written(node))).join('');
  return `<${head}>${inner}</${name}>`;
}

function withNodes({ name, attributes }: XmlElement, nodes: readonly XmlNode[]): XmlElement {
  return makeElement(name, attributes, nodes);
}

function isBlank(node: XmlNode | undefined): node is string {
  return typeof node === 'string' && node.trim() === '';
}

/** As `escapeXml`, but for quotes, and for the line breaks that set the document in lines. */
function escapeText(text: string): string {
  return text.replace(/[&<>\r]/g, escapeXml);
}
