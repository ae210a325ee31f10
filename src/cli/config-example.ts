import type { Command } from 'commander';
import { HOOK_RULES } from '../config/hooks.js';
import { RUN_RULES } from '../config/run-settings.js';
import { SECTIONS, SETTINGS } from '../config/settings.js';
import { hookWords, RUN_WORDS, wordsFor } from './config-words.js';

/**
 * A configuration with every key: what most have is set, all else stands there as a comment with a value that it may have.
 * @param program whose help has the words for the options
 */
export function configExample(program: Command): string {
  const words = wordsFor(program);
  const lineOf = (path: string, name: string, indent: string): string =>
    entry({ name, indent, value: sampleOf(path), isSet: SET.has(path), words: words(path) });
  const paths = [...SETTINGS.keys()];
  const own = paths.filter((path) => !path.includes('.') && !ONE_VM.includes(path));
  const section = (name: string): readonly string[] => [
    `  ${name}:`,
    ...paths
      .filter((path) => path.startsWith(`${name}.`))
      .map((path) => lineOf(path, path.slice(name.length + 1), '    ')),
  ];
  const run = Object.keys(RUN_RULES) as (keyof typeof RUN_RULES)[];
  return [
    HEADING,
    'defaults:',
    ...own.map((path) => lineOf(path, path, '  ')),
    ...SECTIONS.flatMap(section),
    VMS,
    'run:',
    ...run.map((name) =>
      entry({ name, indent: '  ', value: RUN_SAMPLES[name], isSet: name === 'parallel', words: RUN_WORDS[name] }),
    ),
    '  hooks:',
    ...HOOKS_OF_RUN.map((name) =>
      entry({ name, indent: '    ', value: SAMPLES[`hooks.${name}`] ?? '', isSet: false, words: hookWords[name] }),
    ),
    NOTIFY,
    REPORT,
    '',
  ].join('\n');
}

interface Entry {
  readonly name: string;
  readonly indent: string;
  readonly value: string;
  readonly isSet: boolean;
  readonly words: string | undefined;
}

function entry({ name, indent, value, isSet, words }: Entry): string {
  return `${indent}${isSet ? '' : '# '}${name}: ${value}${words === undefined ? '' : `  # ${words}`}`;
}

const HOOKS_OF_RUN = Object.keys(HOOK_RULES) as (keyof typeof HOOK_RULES)[];

/** What names one VM is no default. */
const ONE_VM = ['socket', 'domain', 'agent-socket', 'offline'];

const SET = new Set([
  'target',
  'quiesce',
  'max-age',
  'keep.last',
  'keep.daily',
  'keep.weekly',
  'keep.monthly',
  'verify.read-data-within',
]);

function sampleOf(path: string): string {
  const sample = SAMPLES[path];
  if (sample !== undefined) return sample;
  const fallback = SETTINGS.get(path)?.rule.fallback;
  if (typeof fallback === 'boolean') return String(!fallback);
  if (typeof fallback === 'string' || typeof fallback === 'number') return String(fallback);
  throw new Error(`the example has no value for ${path}`);
}

/** Where the default tells nothing. */
const SAMPLES: Readonly<Record<string, string>> = {
  target: '/backup/{vm}',
  'vm-name': '"{vm}"',
  connect: 'qemu:///system',
  'auto-full-after': '[90d, 150%]',
  note: 'nightly',
  include: '[vda]',
  exclude: '[vdb, vdc]',
  'fleece-dir': '/var/lib/qmpbackup/scratch',
  'overlay-dir': '/var/lib/qmpbackup/overlays',
  'speed-limit': '100M',
  reserve: '20G',
  'max-age': '26h',
  'keep.last': '3',
  'keep.hourly': '24',
  'keep.daily': '7',
  'keep.weekly': '4',
  'keep.monthly': '12',
  'keep.yearly': '5',
  'keep.within': '30d',
  'keep.free': '200G',
  'verify.rate-limit': '100M',
  'verify.expect': '"serial:login:"',
  'verify.timeout': '5m',
  'verify.evidence': '"/var/lib/qmpbackup/proofs/{vm}"',
  'verify.every': '1d',
  'verify.read-data-within': '30d',
  'verify.boot-every': '7d',
  'verify.at-backup': 'sample',
  'verify.qemu-arguments': '["-accel", "tcg"]',
  'hooks.before': '[/usr/local/sbin/mount-backup, "{vm}"]',
  'hooks.after': '[/usr/local/sbin/umount-backup, "{vm}"]',
  'hooks.on-error': '\'logger -t backup "$QMPBACKUP_VM: $QMPBACKUP_WHY"\'',
  'hooks.timeout': '5m',
};

const RUN_SAMPLES: Readonly<Record<keyof typeof RUN_RULES, string>> = {
  parallel: '2',
  'max-per-target': '1',
  jitter: '10m',
  'not-after': '"06:00"',
  retries: '2',
  'retry-after': '60s',
};

const HEADING = `# Configuration of qmpbackup, /etc/qmpbackup/config.yaml. Prove it: qmpbackup config check
# What is said of a VM below vms comes before defaults. A key without a value (~) is as if it were not given.`;

const REPORT = `
report:
  # output: /var/www/backups  # what run shows of all VMs when it is done: a folder of its own, or FILE.html (see qmpbackup report)`;

const VMS = `
vms:
  web1:  # a VM by its QMP monitor; every key of defaults may stand here, too
    socket: /run/web1.qmp
    agent-socket: /run/web1.qga
    # offline: { disk1: /var/lib/vm/web1.qcow2 }  # its images, read while it is off
  db:  # a libvirt domain
    domain: db
    exclude: [vdc]
    keep: { daily: 14, monthly: ~ }

# VMs that are found at each run; what is below vms already is not taken twice.
discover:
  # - { domains: "*", connect: "qemu:///system", exclude: ["scratch-*", db] }
  # - { sockets: "/var/run/qemu-server/*.qmp", agent-socket: "/var/run/qemu-server/{vm}.qga", exclude: ["9*"] }
`;

const NOTIFY = `
# Who hears of it. on: failure and recovery (the default), always (each run), digest (once a day). A failure that goes on is told once, and again
# after remind. A secret (password, token, header, address of a webhook or ping) is a text here, { file: PATH }, or { credential: NAME } of systemd.
notify:
  # - { name: mail, smtp: { host: mail.example.org, port: 465, tls: implicit, user: backup, password: { file: /etc/qmpbackup/smtp }, ca: /etc/ssl/mail.pem }, from: backup@example.org, to: [admin@example.org], remind: 1d }
  # - { name: local, sendmail: /usr/sbin/sendmail, to: root, on: [failure, recovery, digest], digest-at: "08:00" }
  # - { name: chat, webhook: { file: /etc/qmpbackup/chat }, shape: slack }  # shape: json, ntfy, slack, matrix or gotify
  # - { name: hook, webhook: "http://127.0.0.1:8080/hook", token: { credential: hook }, headers: { X-From: host1 } }
  # - { name: switch, ping: { file: /etc/qmpbackup/ping } }  # tells URL/start, and URL or URL/fail; its silence is an alarm
  # - { name: switches, ping: { start: "http://127.0.0.1/s", success: "http://127.0.0.1/ok", fail: "http://127.0.0.1/bad" } }`;
