import { describe, expect, it } from 'vitest';
import { BACKUP_OPTIONS } from '../../../src/backends/backup-options.js';
import { readConfig } from '../../../src/config/read-config.js';
import { SETTINGS } from '../../../src/config/settings.js';
import { shownSettings } from '../../../src/config/shown-settings.js';
import { refuseWrongVms, settingAt, vmFrom, type Vm } from '../../../src/config/vm.js';
import { QmpBackupError } from '../../../src/errors.js';
import { PRUNE_OPTIONS } from '../../../src/operations/prune/options.js';
import { VERIFY_OPTIONS } from '../../../src/operations/verify/options.js';
import { verbArguments } from '../../../src/run/verb-arguments.js';

const FILE = '/etc/qmpbackup/config.yaml';

function vmsIn(text: string): readonly Vm[] {
  const config = readConfig(text, FILE);
  const vms = [...config.vms].map(([name, vm]) => vmFrom(config, 'vms', { name, ...vm }));
  refuseWrongVms(config, vms);
  return vms;
}

function refusal(text: string): string {
  try {
    vmsIn(text);
  } catch (error) {
    if (error instanceof QmpBackupError && error.code === 'usage') return error.message;
    throw error;
  }
  throw new Error('it was taken');
}

const EXAMPLE = `
defaults:
  target: /backup/{vm}
  quiesce: true
  digest: false
  keep: { last: 3, daily: 7 }
  verify: { read-data-within: 30d, boot-every: 7d, at-backup: sample }
  max-age: 26h
vms:
  web1: { socket: /run/web1.qmp, agent-socket: /run/web1.qga, keep: { daily: 30 } }
  db: { domain: db, connect: "qemu:///system", quiesce: ~, exclude: [vdc, vdd], keep: ~, note: 007 }
  old: { offline: { disk1: "/var/lib/{vm}.qcow2" }, quiesce: false }
`;

describe('a configuration', () => {
  it('becomes command lines of the verbs', () => {
    const [web1, db, old] = vmsIn(EXAMPLE) as [Vm, Vm, Vm];
    expect(verbArguments(web1, 'backup').toSorted()).toEqual([
      ...['--agent-socket=/run/web1.qga', '--no-digest', '--quiesce', '--socket=/run/web1.qmp'],
      ...['--target=/backup/web1', '--verify=sample', 'backup'],
    ]);
    expect(verbArguments(web1, 'prune').toSorted()).toEqual([
      '--keep-daily=30',
      '--keep-last=3',
      '--target=/backup/web1',
      'prune',
    ]);
    expect(verbArguments(web1, 'verify')).toEqual(['verify', '--target=/backup/web1']);
    expect(verbArguments(db, 'backup').toSorted()).toEqual([
      ...['--connect=qemu:///system', '--domain=db', '--exclude=vdc', '--exclude=vdd', '--no-digest'],
      ...['--note=007', '--target=/backup/db', '--verify=sample', 'backup'],
    ]);
    expect(verbArguments(db, 'prune')).toEqual(['prune', '--target=/backup/db']);
    expect(verbArguments(old, 'backup', { power: 'off' })).toContain('--offline=disk1=/var/lib/old.qcow2');
  });

  it('calls the folders of months as the VM is called, unless it says another name', () => {
    const [a, b] = vmsIn(
      'defaults: { target: /b, monthly: true }\nvms: { a: { socket: /s }, c: { socket: /t, vm-name: d } }',
    );
    expect(verbArguments(a!, 'prune').toSorted()).toEqual(['--monthly', '--target=/b', '--vm-name=a', 'prune']);
    expect(verbArguments(b!, 'backup')).toContain('--vm-name=d');
    expect(shownSettings(a!)).toContainEqual(
      expect.objectContaining({
        key: 'vm-name',
        value: 'a',
        from: { kind: 'defaults', place: { line: 1, column: 25 } },
      }),
    );
  });

  it('tells of each value where it comes from', () => {
    const [web1] = vmsIn(EXAMPLE) as [Vm];
    const shown = new Map(shownSettings(web1).map((each) => [each.key, each]));
    expect(shown.get('keep.daily')).toMatchObject({ value: '30', from: { kind: 'vms', place: { line: 10 } } });
    expect(shown.get('keep.last')).toMatchObject({ value: '3', from: { kind: 'defaults', place: { line: 6 } } });
    expect(shown.get('level')).toEqual({ key: 'level', value: 'auto', from: null });
    expect(settingAt(web1, 'target')).toBe('/backup/web1');
    expect([...shown.keys()].toSorted()).toEqual([...SETTINGS.keys()].toSorted());
  });

  it('has a key for each option of backup, prune and verify but those that no file shall have', () => {
    const named = new Set(
      [...SETTINGS.values()].flatMap(({ options }) => options.map(({ verb, name }) => `${verb}.${name}`)),
    );
    const all = [
      ...Object.keys(BACKUP_OPTIONS).map((name) => `backup.${name}`),
      ...Object.keys(PRUNE_OPTIONS).map((name) => `prune.${name}`),
      ...Object.keys(VERIFY_OPTIONS).map((name) => `verify.${name}`),
    ];
    expect(all.filter((each) => !named.has(each)).toSorted()).toEqual([
      ...[
        'backup.dryRun',
        'backup.format',
        'backup.output',
        'prune.allowRemoveAll',
        'prune.dryRun',
        'verify.arguments',
        'verify.at',
      ],
      ...['verify.boot', 'verify.outdatedAfter', 'verify.point', 'verify.readData'],
    ]);
  });

  it.each([
    ['defaults: { taget: /b }', `${FILE}:1:13: defaults.taget is no key of the configuration; is target meant?`],
    [
      'defaults:\n  level: autom',
      `${FILE}:2:10: defaults.level cannot be "autom": "autom" is not one of full, inc, diff, auto, copy. Is auto meant?`,
    ],
    ['defaults: { quiesce: yes }', 'give true, false or require'],
    ['defaults: { compress: 1 }', 'say true or false'],
    ['defaults: { keep: { dayly: 7 } }', 'defaults.keep.dayly is no key of the configuration; is daily meant?'],
    ['defaults: { keep: { allow-remove-all: true } }', 'defaults.keep.allow-remove-all is no key'],
    ['defaults: { keep: 7 }', 'defaults.keep has to be keys and values'],
    ['defaults: { socket: /run/x }', 'defaults.socket is no key'],
    ['defaults: { target: "" }', 'defaults.target has an empty value'],
    ['defaults: { include: [[a]] }', 'has to be one value, or a list of them'],
    ['vms: [web1]', 'vms has to be keys and values'],
    ['vms: { a/b: {} }', 'is no name of a VM'],
    ['vms: { a: { socket: /s, target: /b } }\nvms: {}', 'unique'],
    ['vms: { a: { socket: /s }, a: { socket: /t } }', `${FILE}:1:27: the key a is there twice`],
    [
      'defaults: { target: /b/{vm} }',
      `${FILE}:1:24: Unexpected flow-map-start at node end: between { } and [ ] a text with {vm} in it needs quotes`,
    ],
    ['defaults: { exclude: [a, x-{vm}] }', 'needs quotes'],
    ['discover:\n  - domains: *', 'a text that begins with * needs quotes'],
    ['defaults: { retries: 3 }', 'defaults.retries is no key of the configuration; retries belongs into run'],
    ['run: { daily: 3 }', 'daily belongs into keep'],
    ['target: /b', 'target belongs into defaults, or a VM of vms'],
    ['defaults: { domain: d }', 'domain belongs into a VM of vms'],
    ['discover: [{ sockets: /run/web1.qmp }]', 'discover[0].sockets has no *, which stands for the names'],
    ['- x', `${FILE}:1:1: the file has to be keys and values`],
    ['a: [1', `${FILE}:1:`],
    ['discover: [{ domain: "*" }]', 'discover[0].domain is no key of the configuration; is domains meant?'],
    ['discover: [{ sockets: x/*.qmp }]', 'give an absolute path'],
    ['discover: [{ domains: "*", sockets: /run/*.qmp }]', 'needs either domains or sockets'],
    ['discover: { domains: "*" }', 'discover has to be a list'],
    ['run: { parallel: 0 }', 'run.parallel cannot be "0"'],
    ['run: { not-after: 25:00 }', 'give a time of the day'],
    ['report: { output: www }', 'report.output cannot be "www"'],
    ['report: { ouput: /www }', 'report.ouput is no key of the configuration; is output meant?'],
    ['report: {}', 'report needs an output'],
    ['run: { jitter: 5d }', 'or a time such as 90s, 10m or 2h'],
    ['vms: { a: { socket: /s } }', `${FILE}:1:8: a has no target`],
    ['vms: { a: { target: /b } }', 'nothing says how a is reached'],
    ['vms: { a: { socket: /s, domain: d, target: /b } }', '--socket and --domain name a VM each'],
    ['vms: { a: { socket: /s, target: /b }, b: { socket: /t, target: /b } }', 'b and a have the same target'],
    ['vms: { a: { socket: /s, target: /b }, b: { socket: /s, target: /c } }', 'b and a have the same socket'],
    ['vms: { a: { socket: /s, target: /b }, b: { socket: /t, target: /x/../b/ } }', 'b and a have the same target'],
    [
      'vms: { a: { socket: /s, target: /b }, b: { socket: "unix:/x/../s", target: /c } }',
      'b and a have the same socket',
    ],
    [
      'vms: { a: { socket: /s, target: /b/c/d }, b: { socket: /t, target: /b } }',
      'target /b/c/d of a is inside that of b',
    ],
    [
      'vms: { a: { socket: /s, target: /b, monthly: true }, b: { socket: /t, target: /b/a/2027-01 } }',
      'target /b/a/2027-01 of b is inside that of a',
    ],
    [
      'vms: { a: { socket: /s, target: /b, monthly: true }, b: { socket: /t, target: /b/a } }',
      'b and a have the same target',
    ],
    [
      'vms: { a: { domain: d, target: /b, method: overlay, track: overlay, overlay-dir: /b/o } }',
      'a: the folder of the overlays, /b/o, is inside of the target /b',
    ],
    [
      'vms: { a: { domain: d, target: /b/x, method: overlay, track: overlay, overlay-dir: /x/../b } }',
      'a: the target /b/x is inside of the folder of the overlays, /b (',
    ],
    [
      'vms: { a: { domain: d, target: /b, method: overlay, track: overlay, overlay-dir: /c/o }, b: { domain: e, target: /c } }',
      'a: the folder of the overlays, /c/o, is inside of the target /c',
    ],
    ['vms: { a: { socket: /s, target: b } }', 'target of a is not an absolute path: b'],
    ['vms: { a: { socket: s.qmp, target: /b } }', 'socket of a is not an absolute path: s.qmp'],
    ['vms: { a: { offline: { disk1: d.qcow2 }, target: /b } }', 'offline of a is not an absolute path: d.qcow2'],
    ['defaults: { target: /b }\nvms: { a: &a { socket: /s }, b: *a }', `${FILE}:2:33: *a refers to another value`],
    ['defaults: &d { target: /b }\nvms: { a: { <<: *d } }', `${FILE}:2:17: *d refers to another value`],
    ['vms: { a: { socket: !secret /s, target: /b } }', `${FILE}:1:21: Unresolved tag: !secret`],
    ['vms: ~\n---\nrun: ~', `${FILE}:2:1: a second document begins here`],
    ['vms: { a: { socket: /s, target: /b, keep: { consolidate: true } } }', 'a: prune was told nothing to keep'],
    [
      'vms: { a: { socket: /s, target: /b, level: inc, auto-full-after: 30d } }',
      '--auto-full-after goes with --level auto',
    ],
    ['vms: { a: { socket: /s, target: /b, verify: { expect: "running:9" } } }', 'go with --boot'],
  ])('%s is refused', (text, words) => {
    expect(refusal(text)).toContain(words);
  });

  it('is told all that is wrong at once, in the order of the lines', () => {
    expect(refusal('run: { parallel: x }\ndefaults: { levle: auto, kep: 1 }').split('\n')).toHaveLength(3);
  });

  it('may be empty', () => {
    expect(vmsIn('')).toEqual([]);
    expect(vmsIn('vms:\ndefaults: ~\ndiscover: []\nrun:')).toEqual([]);
  });
});
