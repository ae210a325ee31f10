import { expect, it } from 'vitest';
import { pluginLine, unknownLine } from '../../../src/report/plugin-line.js';
import { prometheusText } from '../../../src/report/prometheus.js';
import type { Status, VmStatus } from '../../../src/report/status.js';

const AT = '2026-11-30T00:00:00.000Z';
const VM: VmStatus = {
  ...{ vm: 'web1', target: '/backup/web1', level: 'ok', reasons: [], facts: null, lastGood: null, history: null },
  ...{ ageMs: 3_600_000, maxAgeMs: 93_600_000, chainPoints: 0, damaged: 0 },
};
const ODD: VmStatus = {
  ...VM,
  ...{ vm: 'd\'b "x\\\n|=', level: 'critical', ageMs: null, maxAgeMs: null },
  reasons: [{ level: 'critical', text: 'backup failed: a | b\nc' }],
  history: {
    ...{ vm: 'db', target: '/b', folder: null, backup: null, failingSince: AT, checks: { verify: AT, boot: null } },
    run: {
      ...{ at: AT, endedAt: AT, result: 'failed' },
      steps: [
        {
          verb: 'backup',
          at: AT,
          durationMs: 1500,
          exitCode: 1,
          result: 'failed',
          why: 'w',
          hint: null,
          warnings: ['x'],
          summary: null,
        },
      ],
    },
  },
};

it('a line of a plugin tells the worst in words, and figures behind the bar', () => {
  const well: Status = { level: 'ok', vms: [VM] };
  expect(pluginLine(well)).toBe("QMPBACKUP OK - 1 VM | vms=1 ok=1 warning=0 critical=0 'age web1'=3600s;93600");
  const line = pluginLine({ level: 'critical', vms: [VM, ODD] });
  expect(line.split('\n')).toHaveLength(1);
  expect(line.split('|')).toHaveLength(2);
  expect(line).toMatch(
    /^QMPBACKUP CRITICAL - 1 of 2 VMs: .*backup failed: a \/ b c \| vms=2 ok=1 warning=0 critical=1 /,
  );
  expect(unknownLine('no\nfile')).toBe('QMPBACKUP UNKNOWN - no file');
});

it('metrics are in the text format, whatever a VM is called', () => {
  const text = prometheusText({ level: 'critical', vms: [VM, ODD] }, new Date(AT));
  const lines = text.trimEnd().split('\n');
  for (const line of lines) {
    expect(line).toMatch(
      /^(# (HELP|TYPE) qmpbackup_\w+ .+|qmpbackup_\w+(\{(\w+="(\\[\\"n]|[^"\\\n])*",?)+\})? -?[\d.e+-]+)$/,
    );
  }
  expect(lines).toContain('qmpbackup_status{vm="web1",target="/backup/web1"} 0');
  expect(lines).toContain('qmpbackup_status{vm="d\'b \\"x\\\\\\n|=",target="/backup/web1"} 2');
  expect(lines).toContain('qmpbackup_last_good_point_age_seconds{vm="web1",target="/backup/web1"} 3600');
  expect(text).toMatch(/qmpbackup_step_duration_seconds\{.*verb="backup"\} 1.5\n/);
  expect(text).toMatch(/qmpbackup_last_run_success\{vm="d'b.*\} 0\n/);
  // Each family once.
  const families = lines.filter((line) => line.startsWith('# TYPE'));
  expect(new Set(families).size).toBe(families.length);
  expect(text.endsWith('\n')).toBe(true);
});
