import { isAbsolute } from 'node:path';
import {
  isAlias,
  isMap,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type Pair,
  parseDocument,
  visit,
  type YAMLMap,
} from 'yaml';
import { nearestName } from '../core/nearest-name.js';
import type { OptionRule, OptionRules } from '../core/option-rules.js';
import { folderName } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import type { Config, ConfiguredVm, Discover, Given, Place, Setting, Settings } from './config.js';
import { RUN_RULES, type RunSettings } from './run-settings.js';
import { SECTIONS, SETTINGS } from './settings.js';

/**
 * Reads the text of a configuration. All that is wrong is told at once, each with its line, column and key.
 *
 * @throws QmpBackupError `usage`
 */
export function readConfig(text: string, file: string): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, stringKeys: true });
  const reader = new Reader(file, lines);
  // What follows the first is mostly for its sake.
  for (const { pos, code, message } of [...document.errors, ...document.warnings].slice(0, 1)) {
    // Its own words go on with the place and a picture of it.
    const words = message.split(' at line ')[0]?.replace(/\.$/, '') ?? message;
    reader.complainAt(pos[0], code === 'MULTIPLE_DOCS' ? 'a second document begins here, and a file has one' : words);
  }
  reader.end();
  // Each value stands where it is in force, with its line: merges and references would be one more way to say the same.
  visit(document, {
    Alias: (_, alias) =>
      reader.complainAt(
        alias.range?.[0] ?? 0,
        `*${alias.source} refers to another value: write it out, or put what VMs have in common in defaults`,
      ),
  });
  reader.end();
  const config = readAll(reader, document.contents, file);
  reader.end();
  return config;
}

const TOP = ['defaults', 'vms', 'discover', 'run'] as const;

function readAll(reader: Reader, root: Node | null, file: string): Config {
  const top = new Map(reader.entries(root, '', TOP).map((entry) => [entry.key, entry]));
  const [defaults, vms, discover, run] = TOP.map((key) => top.get(key));
  return {
    file,
    defaults: settingsIn(reader, defaults?.value ?? null, 'defaults', OF_ONE_VM),
    vms: vmsIn(reader, vms?.value ?? null),
    discover: reader.items(discover?.value ?? null, 'discover').map((node, index) => discoverIn(reader, node, index)),
    run: runIn(reader, run?.value ?? null),
  };
}

/** What names one VM is no default. */
const OF_ONE_VM = ['socket', 'domain', 'agent-socket', 'offline'];

function settingsIn(reader: Reader, node: Node | null, path: string, without: readonly string[] = []): Settings {
  const found = new Map<string, Setting>();
  const read = (section: string | null, from: Node | null): void => {
    const prefix = section === null ? '' : `${section}.`;
    const names = [...SETTINGS.keys()]
      .filter((each) => each.startsWith(prefix))
      .map((each) => each.slice(prefix.length));
    const own = names.filter((name) => !name.includes('.') && !without.includes(name));
    const known = section === null ? [...own, ...SECTIONS] : own;
    const where = section === null ? path : `${path}.${section}`;
    for (const { key, value, place } of reader.entries(from, where, known)) {
      if (section === null && SECTIONS.some((each) => each === key)) {
        // `keep: ~` is all of its keys.
        const all = isNothing(value) ? names.filter((each) => each.startsWith(`${key}.`)) : [];
        for (const each of all) found.set(each, { given: null, place });
        read(key, value);
        continue;
      }
      const rule = SETTINGS.get(`${prefix}${key}`)?.rule;
      const given = value === null || isNothing(value) ? null : rule && reader.given(rule, value, `${where}.${key}`);
      if (given !== undefined) found.set(`${prefix}${key}`, { given, place });
    }
  };
  read(null, node);
  return found;
}

function isNothing(node: Node | null): boolean {
  return node === null || (isScalar(node) && node.value === null);
}

function vmsIn(reader: Reader, node: Node | null): ReadonlyMap<string, ConfiguredVm> {
  const vms = new Map<string, ConfiguredVm>();
  for (const { key, value, place } of reader.entries(node, 'vms', null)) {
    if (folderName(key) !== key) {
      reader.complain(place, `vms.${JSON.stringify(key)}`, 'is no name of a VM: it has to be one of a folder, too');
      continue;
    }
    vms.set(key, { place, settings: settingsIn(reader, value, `vms.${key}`) });
  }
  return vms;
}

const DISCOVER_RULES = {
  domains: { flag: 'domains', fallback: null, read: text },
  sockets: { flag: 'sockets', fallback: null, read: absolute },
  connect: { flag: 'connect', fallback: null, read: text },
  'agent-socket': { flag: 'agent-socket', fallback: null, read: text },
  exclude: { flag: 'exclude', fallback: null, read: (given: string | readonly string[]) => given },
} as const satisfies OptionRules;

function text(given: string): string {
  if (typeof given === 'string') return given;
  throw new QmpBackupError('usage', 'give one text.');
}

function absolute(given: string): string {
  if (typeof given === 'string' && isAbsolute(given)) return given;
  throw new QmpBackupError('usage', 'give an absolute path, such as "/run/vms/*.qmp".');
}

function discoverIn(reader: Reader, node: Node | null, index: number): Discover {
  const path = `discover[${index}]`;
  const place = reader.placeOf(node);
  const given = new Map<string, Given>();
  const entries = reader.entries(node, path, Object.keys(DISCOVER_RULES));
  const isSaid = (key: string): boolean => entries.some((entry) => entry.key === key);
  for (const { key, value } of entries) {
    const rule = DISCOVER_RULES[key as keyof typeof DISCOVER_RULES];
    const read = value && reader.given(rule, value, `${path}.${key}`);
    if (read !== undefined && read !== null) given.set(key, read);
  }
  const word = (key: string): string | null => {
    const found = given.get(key);
    return typeof found === 'string' ? found : null;
  };
  const excluded = given.get('exclude') ?? [];
  const exclude =
    typeof excluded === 'string' ? [excluded] : Array.isArray(excluded) ? (excluded as readonly string[]) : [];
  const [domains, sockets] = [word('domains'), word('sockets')];
  if (isSaid('domains') === isSaid('sockets')) {
    reader.complain(place, path, 'needs either domains or sockets');
  }
  if (sockets === null) {
    if (given.has('agent-socket'))
      reader.complain(place, `${path}.agent-socket`, 'goes with sockets: libvirt holds the agents of its domains');
    return { kind: 'domains', place, exclude, pattern: domains ?? '', connect: word('connect') };
  }
  if (given.has('connect')) reader.complain(place, `${path}.connect`, 'goes with domains');
  return { kind: 'sockets', place, exclude, pattern: sockets, agentSocket: word('agent-socket') };
}

function runIn(reader: Reader, node: Node | null): RunSettings {
  const found = new Map<string, unknown>();
  for (const { key, value } of reader.entries(node, 'run', Object.keys(RUN_RULES))) {
    const rule: OptionRule<never, unknown> = RUN_RULES[key as keyof typeof RUN_RULES];
    const given = value && !isNothing(value) ? reader.given(rule, value, `run.${key}`) : undefined;
    if (given !== undefined) found.set(key, rule.read(given as never));
  }
  const valueOf = <Key extends keyof typeof RUN_RULES>(key: Key): ReturnType<(typeof RUN_RULES)[Key]['read']> =>
    (found.has(key) ? found.get(key) : RUN_RULES[key].fallback) as ReturnType<(typeof RUN_RULES)[Key]['read']>;
  return {
    parallel: valueOf('parallel'),
    maxPerTarget: valueOf('max-per-target'),
    jitterMs: valueOf('jitter'),
    notAfter: valueOf('not-after'),
    retries: valueOf('retries'),
    retryAfterMs: valueOf('retry-after'),
  };
}

interface Entry {
  readonly key: string;
  readonly value: Node | null;
  readonly place: Place;
}

/** Nodes of the file as plain values, and what is wrong with them. */
class Reader {
  readonly #file: string;
  readonly #lines: LineCounter;
  readonly #problems: { readonly place: Place; readonly text: string }[] = [];

  constructor(file: string, lines: LineCounter) {
    this.#file = file;
    this.#lines = lines;
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
    const near = nearestName(key, known);
    const instead = near === undefined ? `; there are: ${known.join(', ')}` : `; is ${near} meant?`;
    this.complain(place, whole, `is no key of the configuration${instead}`);
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
    this.complain(
      this.placeOf(node),
      path,
      isAlias(node) ? 'refers to another value: write it out' : 'has to be one value, or a list of them',
    );
    return undefined;
  }
}

function textOf(node: Node | null): string {
  return isScalar(node) ? (node.source ?? String(node.value)) : '';
}
