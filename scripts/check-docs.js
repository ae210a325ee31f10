import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, normalize } from 'node:path';

/** Fails where a page names a file or folder of this repository, in backticks, or links to a page or heading, that is not there. */
const pages = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', ...markdownIn('docs')];
const wrong = pages.flatMap((page) => [...missingPaths(page), ...deadLinks(page)].map((what) => `${page}: ${what}`));
for (const line of wrong) process.stderr.write(`${line}\n`);
process.exitCode = wrong.length === 0 ? 0 : 1;

/** @param {string} page @returns {string[]} */
function missingPaths(page) {
  return [...readFileSync(page, 'utf8').matchAll(/`((?:src|test|scripts|docs|packaging)\/[\w./-]*)`/g)]
    .map(([, path]) => path)
    .filter((path) => !existsSync(path))
    .map((path) => `${path} is not there`);
}

/** @param {string} page @returns {string[]} */
function deadLinks(page) {
  return [...readFileSync(page, 'utf8').matchAll(/\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g)].flatMap(
    ([, path, heading]) => {
      const to = path === '' ? page : normalize(join(dirname(page), path));
      if (!existsSync(to)) return [`links to ${to}, which is not there`];
      if (heading === undefined || headingsOf(to).includes(heading)) return [];
      return [`links to #${heading}, which ${to} has not`];
    },
  );
}

/** As a link names them. @param {string} page @returns {string[]} */
function headingsOf(page) {
  return [...readFileSync(page, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading]) =>
    heading
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, '')
      .replace(/\s/g, '-'),
  );
}

/** @param {string} folder @returns {string[]} */
function markdownIn(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    return entry.isDirectory() ? markdownIn(path) : path.endsWith('.md') ? [path] : [];
  });
}
