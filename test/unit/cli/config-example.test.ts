import { describe, expect, it } from 'vitest';
import { buildProgram } from '../../../src/cli/program.js';
import { configExample } from '../../../src/cli/config-example.js';
import { NOTIFIER_KEYS, SMTP_KEYS } from '../../../src/config/read-notify.js';
import { readConfig } from '../../../src/config/read-config.js';
import { RUN_RULES } from '../../../src/config/run-settings.js';
import { SETTINGS } from '../../../src/config/settings.js';
import { refuseWrongVms, vmFrom } from '../../../src/config/vm.js';

const program = await buildProgram(['config'], new AbortController().signal, () => undefined);
const example = configExample(program);
const lines = example.split('\n');
const comments = lines.flatMap((line, index) => (/^ +# [-a-z]/.test(line) ? [index] : []));

function prove(text: string): void {
  const config = readConfig(text, '/c.yaml');
  refuseWrongVms(
    config,
    [...config.vms].map(([name, vm]) => vmFrom(config, 'vms', { name, ...vm })),
  );
}

describe('the example of a configuration', () => {
  it('is right as it is', () => {
    expect(() => prove(example)).not.toThrow();
  });

  it('has every key, each with what it means', () => {
    const notifier = [
      'name',
      ...Object.keys(NOTIFIER_KEYS),
      ...Object.values(NOTIFIER_KEYS).flat(),
      ...SMTP_KEYS,
      'start',
      'fail',
    ];
    const keys = [...SETTINGS.keys()].map((path) => path.split('.').at(-1) ?? path);
    for (const key of [...keys, ...Object.keys(RUN_RULES), 'domains', 'sockets', ...notifier]) {
      expect(
        lines.some((line) => new RegExp(`(^ +|[{,] )(# )?(- [{] )?${key}: .`).test(line)),
        key,
      ).toBe(true);
    }
    const unexplained = lines.filter((line) => /^ +(# )?[a-z-]+: [^{]/.test(line) && !line.includes('  # '));
    expect(unexplained.map((line) => line.trim().split(':')[0])).toEqual([
      'socket',
      'agent-socket',
      'domain',
      'exclude',
    ]);
  });

  it.each(comments.map((index) => [lines[index]?.trim(), index] as const))('is right with %s', (line, index) => {
    const text = lines.map((each, at) => (at === index ? each.replace('# ', '') : each)).join('\n');
    // What goes with another option only is refused for that alone.
    const goesWith = GOES_WITH.find(([key]) => line?.startsWith(`# ${key}:`));
    const whole = (goesWith?.slice(1) ?? []).reduce((all, other) => {
      const [key, value] = other.split(': ');
      return all.replace(new RegExp(`# (${key}: )${value === undefined ? '' : '\\S+'}`), `$1${value ?? ''}`);
    }, text);
    expect(() => prove(whole)).not.toThrow();
  });
});

/** Keys with others that they need, and the values of these where the example has others. */
const GOES_WITH: readonly (readonly [string, ...string[]])[] = [
  ['overlay-dir', 'method: overlay', 'track: overlay'],
  ['monthly', 'vm-name'],
  ['expect', 'boot-every'],
  ['evidence', 'boot-every'],
  ['agent', 'boot-every'],
];
