import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Fails where a page names a file or folder of this repository, in backticks, that is not there. */
const pages = ['README.md', 'CONTRIBUTING.md', ...markdownIn('docs')];
const missing = pages.flatMap((page) =>
  [...readFileSync(page, 'utf8').matchAll(/`((?:src|test|scripts|docs|packaging)\/[\w./-]*)`/g)]
    .map(([, path]) => path)
    .filter((path) => !existsSync(path))
    .map((path) => `${page}: ${path} is not there`),
);
for (const line of missing) process.stderr.write(`${line}\n`);
process.exitCode = missing.length === 0 ? 0 : 1;

/** @param {string} folder @returns {string[]} */
function markdownIn(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? markdownIn(path) : path.endsWith('.md') ? [path] : [];
  });
}
