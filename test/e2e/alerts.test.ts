import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { expect, it } from 'vitest';
import { repositoryRoot } from '../support/cli.js';
import { fleet, vmsSection } from '../support/fleet.js';
import { startPrometheus } from '../support/prometheus.js';

// The alert rules and the dashboard that are shipped, against metrics that `status` has written and a real Prometheus.

const RULES = join(repositoryRoot, 'packaging/prometheus/qmpbackup.rules.yml');
const DASHBOARD = join(repositoryRoot, 'packaging/grafana/qmpbackup.json');

interface Dashboard {
  readonly panels: readonly { readonly title: string; readonly targets: readonly { readonly expr: string }[] }[];
  readonly annotations: { readonly list: readonly { readonly expr: string }[] };
  readonly templating: { readonly list: readonly { readonly name: string; readonly definition?: string }[] };
}

interface Alert {
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly state: string;
}

it('the rules are sound, and each fault raises its own alert', async () => {
  await execa('promtool', ['check', 'rules', RULES]);
  await execa('promtool', ['test', 'rules', RULES.replace('.yml', '.test.yml')]);
});

it('Prometheus fires on what status has written, and answers each query of the dashboard', async () => {
  const lab = await fleet(['web1', 'db']);
  const config = (maxAge: string): string => `
defaults:
  target: "${lab.backups}/{vm}"
  max-age: ${maxAge}
  verify: { every: 1d, boot-every: 1d, expect: "running:1", qemu-arguments: ["-accel", "tcg"] }
${vmsSection(lab)}
`;
  await lab.configure(config('26h'));
  await lab.cli(0, 'run');
  await lab.vms.get('db')!.stop();
  await lab.cli(3, 'run');
  await lab.configure(config('0.0001h'));
  const metrics = join(lab.dir, 'qmpbackup.prom');
  // Nobody has written them for three hours.
  await lab.at(Date.now() - 3 * 3_600_000).cli(2, 'status', '--prometheus', metrics);
  const rules = (await readFile(RULES, 'utf8')).replace(/^( +for: ).*$/gm, '$10s');
  const prometheus = await startPrometheus(join(lab.dir, 'prometheus'), { metrics, rules });

  const firing = async (): Promise<readonly Alert[]> =>
    (await prometheus.ask<{ alerts: readonly Alert[] }>('alerts')).alerts.filter(({ state }) => state === 'firing');
  const named = async (): Promise<readonly string[]> =>
    (await firing()).map(({ labels }) => `${labels['alertname']} ${labels['vm'] ?? ''}`.trim()).toSorted();
  await expect
    .poll(named)
    .toEqual(
      expect.arrayContaining([
        'QmpbackupMetricsStale',
        'QmpbackupPointTooOld db',
        'QmpbackupPointTooOld web1',
        'QmpbackupRunFailed db',
      ]),
    );
  expect(await named()).not.toContain('QmpbackupRunFailed web1');
  // Every word of an alert is there: what a template lacks is told as an error, or as no value.
  for (const { annotations } of await firing()) {
    expect(Object.values(annotations).join(' ')).not.toMatch(/<error|<no value|no value/);
  }

  const dashboard = JSON.parse(await readFile(DASHBOARD, 'utf8')) as Dashboard;
  const vms = dashboard.templating.list.find(({ name }) => name === 'vm')?.definition;
  const [, metric, label] = /^label_values\((\w+), (\w+)\)$/.exec(vms ?? '') ?? [];
  expect(await prometheus.ask(`label/${label}/values`, { 'match[]': metric ?? '' })).toEqual(['db', 'web1']);
  const queries = [
    ...dashboard.panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ title, expr }))),
    ...dashboard.annotations.list.map(({ expr }) => ({ title: 'alerts', expr })),
  ];
  expect(queries.length).toBeGreaterThan(20);
  const empty: string[] = [];
  for (const { title, expr } of queries) {
    const query = expr.replaceAll('$vm', '.*');
    expect(query, title).not.toMatch(/\$/);
    const end = Date.now() / 1000;
    const { result } = await prometheus.ask<{ result: readonly unknown[] }>('query_range', {
      ...{ query, start: String(end - 60), end: String(end), step: '1' },
    });
    if (result.length === 0) empty.push(expr);
  }
  // These VMs have no guest that could be frozen, and nothing fleeces them.
  expect(
    empty.every((expr) => /freeze|pause/.test(expr)),
    empty.join('\n'),
  ).toBe(true);
});
