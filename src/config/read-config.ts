import { isAbsolute } from 'node:path';
import { LineCounter, type Node, parseDocument, visit, type YAMLError } from 'yaml';
import type { OptionRule, OptionRules } from '../core/option-rules.js';
import { folderName } from '../core/names.js';
import { QmpBackupError } from '../errors.js';
import type { Config, ConfiguredVm, Discover, Given, ReportSettings, Setting, Settings } from './config.js';
import { HOOK_RULES, type Hooks, hooksFrom, NO_HOOKS } from './hooks.js';
import { notifiersIn } from './read-notify.js';
import { RUN_RULES, type RunSettings } from './run-settings.js';
import { SECTIONS, SETTINGS } from './settings.js';
import { isNothing, YamlReader } from './yaml-reader.js';

/**
 * Reads the text of a configuration. All that is wrong is told at once, each with its line, column and key.
 *
 * @throws QmpBackupError `usage`
 */
export function readConfig(text: string, file: string): Config {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, stringKeys: true });
  const reader = new YamlReader(file, lines, HOMES);
  // What follows the first is mostly for its sake.
  for (const error of [...document.errors, ...document.warnings].slice(0, 1))
    reader.complainAt(error.pos[0], wordsOf(error, text));
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

/** What is no YAML, in words, and what was probably meant. */
function wordsOf({ pos: [at], code, message }: YAMLError, text: string): string {
  if (code === 'MULTIPLE_DOCS') return 'a second document begins here, and a file has one';
  if (code === 'DUPLICATE_KEY')
    return `the key ${/^[\w.-]*/.exec(text.slice(at))?.[0]} is there twice: map keys must be unique`;
  // Its own words go on with the place and a picture of it.
  const words = message.split(' at line ')[0]?.replace(/\.$/, '') ?? message;
  if (text.slice(Math.max(0, at - 4), at + 5).includes('{vm}'))
    return `${words}: between { } and [ ] a text with {vm} in it needs quotes, "/backup/{vm}"`;
  return code === 'BAD_ALIAS' ? `${words}: a text that begins with * needs quotes, "*"` : words;
}

const TOP = ['defaults', 'vms', 'discover', 'run', 'notify', 'report'] as const;

function readAll(reader: YamlReader, root: Node | null, file: string): Config {
  const top = new Map(reader.entries(root, '', TOP).map((entry) => [entry.key, entry]));
  const [defaults, vms, discover, run, notify, report] = TOP.map((key) => top.get(key));
  return {
    file,
    defaults: settingsIn(reader, defaults?.value ?? null, 'defaults', OF_ONE_VM),
    vms: vmsIn(reader, vms?.value ?? null),
    discover: reader.items(discover?.value ?? null, 'discover').map((node, index) => discoverIn(reader, node, index)),
    run: runIn(reader, run?.value ?? null),
    notify: notifiersIn(reader, notify?.value ?? null),
    report: reportIn(reader, report?.value ?? null),
  };
}

/** What names one VM is no default. */
const OF_ONE_VM = ['socket', 'domain', 'agent-socket', 'offline'];

/** The sections that keys belong into. */
const HOMES: ReadonlyMap<string, string> = new Map([
  ...Object.keys(RUN_RULES).map((key) => [key, 'run'] as const),
  ...[...SETTINGS.keys()].map((path) => {
    const [section = '', key] = path.split('.');
    if (key !== undefined) return [key, section] as const;
    return [section, OF_ONE_VM.includes(section) ? 'a VM of vms' : 'defaults, or a VM of vms'] as const;
  }),
]);

function settingsIn(reader: YamlReader, node: Node | null, path: string, without: readonly string[] = []): Settings {
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

function vmsIn(reader: YamlReader, node: Node | null): ReadonlyMap<string, ConfiguredVm> {
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

function discoverIn(reader: YamlReader, node: Node | null, index: number): Discover {
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
  if (!/[*?]/.test(sockets))
    reader.complain(place, `${path}.sockets`, 'has no *, which stands for the names: what is one VM belongs into vms');
  return { kind: 'sockets', place, exclude, pattern: sockets, agentSocket: word('agent-socket') };
}

function runIn(reader: YamlReader, node: Node | null): RunSettings {
  const found = new Map<string, unknown>();
  let hooks = NO_HOOKS;
  for (const { key, value } of reader.entries(node, 'run', [...Object.keys(RUN_RULES), 'hooks'])) {
    if (key === 'hooks') {
      hooks = hooksIn(reader, value);
      continue;
    }
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
    hooks,
  };
}

const REPORT_OUTPUT: OptionRule<string, string | null> = { flag: 'output', fallback: null, read: absolute };

function reportIn(reader: YamlReader, node: Node | null): ReportSettings | null {
  if (isNothing(node)) return null;
  const [output] = reader.entries(node, 'report', ['output']);
  const given = output?.value && reader.given(REPORT_OUTPUT, output.value, 'report.output');
  if (typeof given === 'string') return { output: given };
  // What is wrong with a value that is there has been said.
  if (!output?.value) reader.complain(reader.placeOf(node), 'report', 'needs an output: a folder, or FILE.html');
  return null;
}

function hooksIn(reader: YamlReader, node: Node | null): Hooks {
  const found = new Map<string, Given>();
  for (const { key, value } of reader.entries(node, 'run.hooks', Object.keys(HOOK_RULES))) {
    const rule: OptionRule<never, unknown> = HOOK_RULES[key as keyof typeof HOOK_RULES];
    const given = value && !isNothing(value) ? reader.given(rule, value, `run.hooks.${key}`) : undefined;
    if (given !== undefined) found.set(key, given);
  }
  return hooksFrom((key) => found.get(key));
}
