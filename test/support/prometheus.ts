import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { afterTest } from './scenario.js';

/** A real Prometheus of Debian's that scrapes files as the node exporter serves them, every second. */
export interface Prometheus {
  /** The `data` of an answer. @throws with its words where it is an error */
  ask<T>(path: string, query?: Readonly<Record<string, string>>): Promise<T>;
}

/** `rules`: text of a rule file. */
export async function startPrometheus(
  dir: string,
  { metrics, rules }: { readonly metrics: string; readonly rules: string },
): Promise<Prometheus> {
  const served = createServer((_, response) => {
    readFile(metrics).then(
      (text) => response.setHeader('content-type', 'text/plain; version=0.0.4').end(text),
      (error: unknown) => response.writeHead(500).end(String(error)),
    );
  });
  await new Promise<void>((resolve) => served.listen(0, '127.0.0.1', resolve));
  afterTest(() => new Promise((resolve) => served.close(resolve)));
  const { port } = served.address() as AddressInfo;
  const own = await freePort();
  await mkdir(dir);
  const config = join(dir, 'prometheus.yml');
  await writeFile(join(dir, 'rules.yml'), rules);
  await writeFile(
    config,
    `global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: ["${join(dir, 'rules.yml')}"]
scrape_configs: [{ job_name: node, static_configs: [{ targets: ["127.0.0.1:${port}"] }] }]
`,
  );
  const args = [`--config.file=${config}`, `--storage.tsdb.path=${join(dir, 'data')}`];
  const running = execa('prometheus', [...args, `--web.listen-address=127.0.0.1:${own}`], { reject: false, all: true });
  afterTest(async () => {
    running.kill('SIGTERM');
    await running;
  });
  const ask = async <T>(path: string, query: Readonly<Record<string, string>> = {}): Promise<T> => {
    const url = `http://127.0.0.1:${own}/api/v1/${path}?${new URLSearchParams(query).toString()}`;
    const answer = (await (await fetch(url)).json()) as { status: string; data: T; error?: string };
    if (answer.status !== 'success') throw new Error(`${JSON.stringify(query)}: ${answer.error}`);
    return answer.data;
  };
  for (;;) {
    const ready = await fetch(`http://127.0.0.1:${own}/-/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
    if (ready) return { ask };
    if (running.exitCode !== undefined && running.exitCode !== null) throw new Error((await running).all);
    await sleep(100);
  }
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
