import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import ts from 'typescript';

/**
 * Which room of `src` imports which, types included, against `scripts/layers.json`, which says for each
 * room what it may import (besides its own files and `errors`). Fails on any other import, and where files import each other in
 * a circle. `--graph` prints the rooms with their arrows, `--root DIR` looks at another folder of sources.
 */
const { values: flags } = parseArgs({
  options: { root: { type: 'string', default: 'src' }, graph: { type: 'boolean', default: false } },
});
const root = resolve(flags.root);
const layers = JSON.parse(readFileSync('scripts/layers.json', 'utf8'));

/** @typedef {{ from: string, to: string }} Import */
/** @typedef {{ path: string, source: ts.SourceFile }} SourceFile */

const files = sources(root).map((path) => ({
  path,
  source: ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest),
}));
const imports = files.flatMap(importsOf);
const problems = [
  ...imports.flatMap(wrongWay),
  ...circles(imports).map((together) => `a circle: ${together.join(' → ')}`),
  ...exportedTwice(),
];
if (flags.graph) draw();
for (const problem of problems) process.stderr.write(`${problem}\n`);
process.exitCode = problems.length === 0 ? 0 : 1;

/** @param {string} folder @returns {string[]} */
function sources(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sources(path);
    return path.endsWith('.ts') ? [path] : [];
  });
}

/**
 * Static and dynamic imports, re-exports and types that are imported in place.
 *
 * @param {SourceFile} file
 * @returns {Import[]}
 */
function importsOf({ path, source }) {
  const found = [];
  const add = (specifier) => {
    if (!specifier || !ts.isStringLiteral(specifier) || !specifier.text.startsWith('.')) return;
    const target = resolve(dirname(path), specifier.text).replace(/\.js$/, '.ts');
    found.push({ from: relative(root, path), to: relative(root, target) });
  };
  const visit = (node) => {
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) add(node.moduleSpecifier);
    else if (ts.isImportTypeNode(node)) add(ts.isLiteralTypeNode(node.argument) ? node.argument.literal : undefined);
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) add(node.arguments[0]);
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** The room of a file: the longest folder that `layers.json` names. @param {string} file */
function roomOf(file) {
  const rooms = Object.keys(layers).filter((room) => file === room || file.startsWith(`${room}/`));
  const [room] = rooms.sort((a, b) => b.length - a.length);
  if (room === undefined) throw new Error(`${file} is in no room of scripts/layers.json`);
  return room;
}

/** @param {Import} each @returns {string[]} */
function wrongWay({ from, to }) {
  if (to === 'errors.ts') return [];
  const [room, other] = [roomOf(from), roomOf(to)];
  if (room === other || layers[room]?.includes(other)) return [];
  return [`${from} imports ${to}: ${room} may import only ${['errors', ...(layers[room] ?? [])].join(', ')}`];
}

/** Each set of files that reach each other, by Tarjan's algorithm. @param {Import[]} all @returns {string[][]} */
function circles(all) {
  const next = new Map();
  for (const { from, to } of all) next.set(from, [...(next.get(from) ?? []), to]);
  const order = new Map();
  const low = new Map();
  const stack = [];
  const found = [];
  const visit = (file) => {
    order.set(file, order.size);
    low.set(file, order.get(file));
    stack.push(file);
    for (const other of next.get(file) ?? []) {
      if (!order.has(other)) visit(other);
      if (stack.includes(other)) low.set(file, Math.min(low.get(file), low.get(other)));
    }
    if (low.get(file) !== order.get(file)) return;
    const together = stack.splice(stack.indexOf(file));
    if (together.length > 1 || next.get(file)?.includes(file)) found.push(together.sort());
  };
  for (const file of next.keys()) if (!order.has(file)) visit(file);
  return found;
}

/** @returns {string[]} */
function exportedTwice() {
  const found = new Map();
  for (const { path, source } of files) {
    for (const name of exportsOf(source)) found.set(name, [...(found.get(name) ?? []), relative(root, path)]);
  }
  return [...found].flatMap(([name, places]) =>
    places.length > 1 ? [`${name} is exported by each of ${places.join(', ')}`] : [],
  );
}

/** Names that a file declares and exports; of overloads one. @param {ts.SourceFile} source @returns {Set<string>} */
function exportsOf(source) {
  const names = source.statements.flatMap((node) => {
    if (!ts.canHaveModifiers(node)) return [];
    if (!ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.ExportKeyword)) return [];
    const declared = ts.isVariableStatement(node) ? node.declarationList.declarations : [node];
    return declared.flatMap(({ name }) => (name && ts.isIdentifier(name) ? [name.text] : []));
  });
  return new Set(names);
}

function draw() {
  const arrows = new Map();
  for (const { from, to } of imports) {
    const [room, other] = [roomOf(from), to === 'errors.ts' ? 'errors' : roomOf(to)];
    if (room === other) continue;
    const counted = arrows.get(room) ?? new Map();
    arrows.set(room, counted.set(other, (counted.get(other) ?? 0) + 1));
  }
  for (const room of Object.keys(layers)) {
    const counted = [...(arrows.get(room) ?? [])].sort().map(([other, count]) => `${other} (${count})`);
    process.stdout.write(`${room} → ${counted.join(', ') || 'nothing'}\n`);
  }
}
