import { pathToFileURL } from 'node:url';
import axe from 'axe-core';
import puppeteer, { type Browser, type Page } from 'puppeteer-core';
import { afterAll } from 'vitest';

/** Debian's Chromium, without a window; one for all tests of a file. */
let running: Promise<Browser> | undefined;

afterAll(async () => {
  await (await running)?.close();
  running = undefined;
});

export interface Looked {
  readonly page: Page;
  /** What was said on the console, and what failed. */
  readonly said: readonly string[];
  /** Addresses that were asked for, but the page itself. */
  readonly asked: readonly string[];
}

/** Shows a file; the answer is a snapshot that goes on. */
export async function show(
  path: string,
  { width, theme }: { readonly width: number; readonly theme: 'light' | 'dark' },
): Promise<Looked> {
  running ??= puppeteer.launch({ executablePath: '/usr/bin/chromium', headless: true, args: ['--no-sandbox'] });
  const page = await (await running).newPage();
  const [said, asked]: [string[], string[]] = [[], []];
  const url = pathToFileURL(path).href;
  page.on('console', (message) => said.push(message.text()));
  page.on('pageerror', (error) => said.push(String(error)));
  page.on('dialog', (dialog) => {
    said.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on('request', (request) => {
    if (request.url() !== url && !request.url().startsWith('data:')) asked.push(request.url());
  });
  await page.setViewport({ width, height: 900 });
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: theme }]);
  await page.goto(url);
  return { page, said, asked };
}

/** What an expression of the page comes to: text, for there is no document here that types would know. */
export function read<T>(page: Page, expression: string): Promise<T> {
  return page.evaluate(expression) as Promise<T>;
}

/** Pixels by which it is wider than the window. */
export function overflow(page: Page): Promise<number> {
  return read(page, 'document.documentElement.scrollWidth - window.innerWidth');
}

/** What a reader of screens, or with weak eyes, could not use: rules of axe that are broken, each with where. */
export async function accessFaults(page: Page): Promise<readonly string[]> {
  // Over the protocol, which no policy of the page holds up.
  await page.evaluate(axe.source);
  return read(
    page,
    `axe.run().then(({ violations }) => violations.map(({ id, nodes }) => id + ': ' + nodes.slice(0, 3).map(({ html }) => html).join(' ')))`,
  );
}
