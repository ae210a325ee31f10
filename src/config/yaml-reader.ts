import { isMap, isPair, isScalar, isSeq, type LineCounter, type Node, type Pair, type YAMLMap } from 'yaml';
import { nearestName } from '../core/nearest-name.js';
import type { OptionRule } from '../core/option-rules.js';
import { QmpBackupError } from '../errors.js';
import type { Given } from './config.js';
import type { Place } from './place.js';

export interface Entry {
  readonly key: string;
  readonly value: Node | null;
  readonly place: Place;
}

/** Nodes of the file as plain values, and what is wrong with them: all of it is told at once. */
export class YamlReader {
  readonly #file: string;
  readonly #lines: LineCounter;
  readonly #homes: ReadonlyMap<string, string>;
  readonly #problems: { readonly place: Place; readonly text: string }[] = [];

  /** `homes`: where keys belong, for those that stand elsewhere. */
  constructor(file: string, lines: LineCounter, homes: ReadonlyMap<string, string>) {
    this.#file = file;
    this.#lines = lines;
    this.#homes = homes;
  }

  placeOf(node: Node | null): Place {
    return this.#at(node?.range?.[0] ?? 0);
  }

  #at(offset: number): Place {
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }

  complainAt(offset: number, words: string): void {
    this.#problems.push({ place: this.#at(offset), text: words });
  }

  complain(place: Place, path: string, words: string): void {
    this.#problems.push({ place, text: `${path} ${words}` });
  }

  /** @throws QmpBackupError `usage` where something is wrong */
  end(): void {
    if (this.#problems.length === 0) return;
    const inOrder = this.#problems.toSorted((a, b) => a.place.line - b.place.line || a.place.column - b.place.column);
    const told = inOrder.map(({ place, text }) => `${this.#file}:${place.line}:${place.column}: ${text}`);
    throw new QmpBackupError('usage', told.join('\n'), { hint: 'qmpbackup config example prints every key.' });
  }

  /** `known`: keys that may be there; null is any. */
  entries(node: Node | null, path: string, known: readonly string[] | null): readonly Entry[] {
    if (isNothing(node) || node === null) return [];
    if (!isMap(node)) {
      this.complain(this.placeOf(node), path === '' ? 'the file' : path, 'has to be keys and values');
      return [];
    }
    return (node as YAMLMap<Node, Node | null>).items.flatMap((pair) => this.#entry(pair, path, known));
  }

  #entry(pair: Pair<Node, Node | null>, path: string, known: readonly string[] | null): readonly Entry[] {
    const { key: node, value } = pair;
    if (!isPair(pair) || !isScalar(node)) return [];
    const [key, place] = [String(node.value), this.placeOf(node)];
    const whole = path === '' ? key : `${path}.${key}`;
    if (known === null || known.includes(key)) return [{ key, value, place }];
    const [near, home] = [nearestName(key, known), this.#homes.get(key)];
    const others = home === undefined ? `there are: ${known.join(', ')}` : `${key} belongs into ${home}`;
    const instead = near === undefined ? others : `is ${near} meant?`;
    this.complain(place, whole, `is no key of the configuration; ${instead}`);
    return [];
  }

  items(node: Node | null, path: string): readonly (Node | null)[] {
    if (node === null || isNothing(node)) return [];
    if (isSeq(node)) return node.items as (Node | null)[];
    this.complain(this.placeOf(node), path, 'has to be a list');
    return [];
  }

  /** Undefined where it is not what `rule` takes, which is kept in mind. */
  given(rule: OptionRule<never, unknown>, node: Node, path: string): Given | undefined {
    const place = this.placeOf(node);
    const given = this.#plain(node, path);
    if (given === undefined) return undefined;
    if (given === '' || (Array.isArray(given) && given.includes(''))) {
      this.complain(place, path, 'has an empty value; give one, or leave it out');
      return undefined;
    }
    try {
      rule.read(given as never);
      return given;
    } catch (error) {
      if (!(error instanceof QmpBackupError)) throw error;
      const hint = 'word' in rule && typeof rule.word === 'string' ? `give true, false or ${rule.word}.` : null;
      const near = typeof given === 'string' ? nearestName(given, rule.choices ?? []) : undefined;
      const meant = near === undefined ? '' : ` Is ${near} meant?`;
      this.complain(place, path, `cannot be ${JSON.stringify(given)}: ${hint ?? error.message}${meant}`);
      return undefined;
    }
  }

  #plain(node: Node, path: string): Given | undefined {
    if (isScalar(node)) return typeof node.value === 'boolean' ? node.value : (node.source ?? String(node.value));
    const items = isSeq(node) ? (node.items as Node[]) : null;
    if (items?.every((item) => isScalar(item))) return items.map((item) => item.source ?? String(item.value));
    if (isMap(node) && node.items.every(({ key, value }) => isScalar(key) && isScalar(value))) {
      const pairs = (node as YAMLMap<Node, Node>).items.map(({ key, value }) => [key, value].map(textOf));
      return Object.fromEntries(pairs) as Record<string, string>;
    }
    this.complain(this.placeOf(node), path, 'has to be one value, or a list of them');
    return undefined;
  }
}

function textOf(node: Node | null): string {
  return isScalar(node) ? (node.source ?? String(node.value)) : '';
}

export function isNothing(node: Node | null): boolean {
  return node === null || (isScalar(node) && node.value === null);
}
