import { join } from 'node:path';
import ts from 'typescript';
import { expect, it } from 'vitest';
import { projectRoot } from '../support/lab/programs.js';

/** Types of this project that the functions of the library take or give, and that a caller cannot name, with the way to each. */
function unnamable(index: string): readonly string[] {
  const program = ts.createProgram([index], { ...COMPILER, noEmit: true });
  const checker = program.getTypeChecker();
  const source = program.getSourceFile(index);
  const module = source && checker.getSymbolAtLocation(source);
  const exported = (module ? checker.getExportsOfModule(module) : []).map((symbol) =>
    symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol,
  );
  const found = new Map<ts.Symbol, string>();
  const seen = new Set<ts.Type>();
  const note = (symbol: ts.Symbol | undefined, way: string): void => {
    if (symbol && isOurs(symbol) && !exported.includes(symbol) && !found.has(symbol)) found.set(symbol, way);
  };
  const walk = (type: ts.Type, way: string): void => {
    if (seen.has(type)) return;
    seen.add(type);
    note(type.aliasSymbol, way);
    if (type.isUnionOrIntersection()) return type.types.forEach((each) => walk(each, way));
    if (!(type.flags & ts.TypeFlags.Object)) return;
    if (type.isClassOrInterface()) note(type.symbol, way);
    for (const each of checker.getTypeArguments(type as ts.TypeReference)) walk(each, way);
    // What the language and Node have needs no name from here.
    if (type.symbol.name !== '__type' && !isOurs(type.symbol)) return;
    for (const property of checker.getPropertiesOfType(type)) {
      walk(checker.getTypeOfSymbol(property), `${way}.${property.name}`);
    }
    for (const signature of type.getCallSignatures()) {
      // The third parameter of some is for tests.
      for (const each of signature.parameters.slice(0, 2)) walk(checker.getTypeOfSymbol(each), `${way}(${each.name})`);
      walk(signature.getReturnType(), `${way}()`);
    }
  };
  const functions = exported.filter(({ flags }) => flags & ts.SymbolFlags.Function);
  if (functions.length === 0) throw new Error(`${index} exports no function`);
  for (const each of functions) walk(checker.getTypeOfSymbol(each), each.name);
  return [...found].map(([{ name }, way]) => `${name}: ${way}`);
}

const COMPILER: ts.CompilerOptions = {
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
  types: ['node'],
  strict: true,
};

function isOurs({ declarations = [] }: ts.Symbol): boolean {
  const sources = join(projectRoot(), 'src');
  return declarations.some((each) => each.getSourceFile().fileName.startsWith(sources));
}

it('a caller of the library can name the type of all that it takes and gives', () => {
  expect(unnamable(join(projectRoot(), 'src', 'index.ts'))).toEqual([]);
});
