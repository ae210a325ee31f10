import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { Script } from 'node:vm';
import { crc32 } from 'node:zlib';

/**
 * Runs the files of the program as users have it, which lie beside this one when all are bundled, by the code that V8 has made of
 * them at the build (docs/decisions/0001). V8 refuses code of another version or of other flags, and sees neither that it is
 * damaged nor that the text is another one: so both are proved by a sum. Without code the text is compiled.
 */
const HERE = import.meta.dirname;
const require = createRequire(import.meta.url);
const running = new Map<string, { exports: unknown }>();

/** What a file of the program exports. @param name of that file */
export function runShipped(name: string): unknown {
  const known = running.get(name);
  if (known) return known.exports;
  const module = { exports: {} };
  running.set(name, module);
  const filename = join(HERE, name);
  const run = scriptOf(filename).runInThisContext() as ModuleFunction;
  run(module.exports, (id) => (id.startsWith('./') ? runShipped(id.slice(2)) : require(id)), module, filename, HERE);
  return module.exports;
}

type ModuleFunction = (
  exports: unknown,
  require: (id: string) => unknown,
  module: { exports: unknown },
  filename: string,
  dirname: string,
) => void;

/** Where the code made of a file is kept. */
export function codeFile(filename: string): string {
  return `${filename}.code`;
}

/** What is kept there: the code, and behind it the sum. */
export function keptCode(filename: string, code: Buffer): Buffer {
  const sum = Buffer.alloc(SUM_BYTES);
  sum.writeUInt32LE(sumOf(readFileSync(filename), code));
  return Buffer.concat([code, sum]);
}

const SUM_BYTES = 4;

function sumOf(text: Buffer, code: Buffer): number {
  return crc32(code, crc32(text));
}

/** A file of the program as a script; its places are those of the file. */
export function scriptOf(filename: string): Script {
  const text = readFileSync(filename);
  const cachedData = codeOf(filename, text);
  return new Script(`(function(exports,require,module,__filename,__dirname){\n${text.toString()}\n})`, {
    ...{ filename, lineOffset: -1 },
    ...(cachedData ? { cachedData } : {}),
  });
}

/** Undefined where there is none, or none that was made of this text. */
function codeOf(filename: string, text: Buffer): Buffer | undefined {
  try {
    const kept = readFileSync(codeFile(filename));
    const code = kept.subarray(0, -SUM_BYTES);
    return code.length > 0 && kept.readUInt32LE(code.length) === sumOf(text, code) ? code : undefined;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
