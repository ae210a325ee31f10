import { POINT_FORMS } from '../../core/point-name.js';
import { VERIFY_OPTIONS } from '../../operations/verify/options.js';
import { verify } from '../../operations/verify/verify.js';
import { verifyDocument } from '../documents/verify.js';
import { AT_HELP, optionOf, requestFrom } from '../options.js';
import type { Register } from '../register.js';
import { createPercent, createProgress } from '../render/progress.js';
import { renderVerify } from '../render/verify.js';
import type { CommandContext } from '../wiring.js';

type Flags = Readonly<Record<string, unknown>>;

export const verifyCommand: Register = (program, run) => {
  const { target, monthly, vmName, point, at, readData, outdatedAfter, rateLimit, repair, breakLock } = VERIFY_OPTIONS;
  const { boot, expect, timeout, agent, evidence } = VERIFY_OPTIONS;
  const command = program
    .command('verify')
    .argument('[qemu...]', 'after --, with --boot: more arguments for QEMU, unless the point is of a libvirt domain')
    .description(
      'say all that is wrong with backups: catalog, files, headers and links, qemu-img check, strays, digests',
    )
    .addOption(
      optionOf(target, 'folder of the backups, or the one above several (--monthly)', { short: '-t', value: '<dir>' }),
    )
    .addOption(optionOf(monthly, 'the targets are those of months, <target>/<vm name>/<YYYY-MM>'))
    .addOption(optionOf(vmName, 'with --monthly: only the months of this VM', { value: '<name>' }))
    .addOption(
      optionOf(point, `only the files of this point: ${POINT_FORMS}`, {
        value: '<point>',
      }),
    )
    .addOption(optionOf(at, AT_HELP, { value: '<time>' }))
    .addOption(
      optionOf(
        readData,
        'read every byte and compare it with the digests; =3/7: of the third of seven parts; =10%: of what was not read for the longest; =30d: what is due today where all is to be read in 30 days (=30d/12h: by two runs a day)',
        { value: '[share]' },
      ),
    )
    .addOption(optionOf(outdatedAfter, 'read only what was not read for so long, such as 30d', { value: '<time>' }))
    .addOption(optionOf(rateLimit, 'bytes per second that are read; also 20M', { value: '<bytes>' }))
    .addOption(
      optionOf(
        repair,
        'mend what can be mended without losing a point; what is in no point is moved to a folder stray-TIME',
      ),
    )
    .addOption(
      optionOf(
        boot,
        'start the point, or the newest, without network over overlays that nobody keeps; of a libvirt domain by libvirt (--connect)',
      ),
    )
    .addOption(
      optionOf(expect, 'what tells that it has booted, instead of its guest agent: serial:REGEX, or running:SECONDS', {
        value: '<what>',
      }),
    )
    .addOption(optionOf(timeout, 'how long it may take to boot; also 2m', { value: '<seconds>' }))
    .addOption(optionOf(agent, 'with --boot: a channel for the guest agent although the VM had none'))
    .addOption(
      optionOf(evidence, 'with --boot: folder for a picture of its screen and for its serial log', { value: '<dir>' }),
    )
    .addOption(optionOf(breakLock, 'take a lock that another host holds'))
    .addHelpText('after', EXAMPLES);
  command.action((_words: readonly string[], flags: Flags) =>
    run<Flags>((given, context) => runVerify({ ...given, arguments: command.args }, context))(flags, command),
  );
};

const EXAMPLES = `
Ends with 0 where nothing is damaged, with 4 where something is, or cannot be read, and with 3 where one of several targets was
locked. Warnings (5 under --strict) harm no point. What is damaged is remembered in verified.json beside the catalog until it
reads right again: the next backup does not build on it, and list shows it. Seven runs, with =1/7 to =7/7, read every file once.

Examples:
  qmpbackup verify --target /backup/vm
  qmpbackup verify --target /backup --read-data
  qmpbackup verify --target /backup --read-data=10% --outdated-after 30d --rate-limit 100M
  qmpbackup verify --target /backup --read-data=30d
  qmpbackup verify --target /backup/vm --boot --evidence /var/lib/proofs
  qmpbackup verify --target /backup/vm --boot --point 3 --expect 'serial:login:' --timeout 120 -- -accel tcg`;

/** Milliseconds between two lines of progress where there is no terminal. */
const INTERVAL_MS = 60_000;

async function runVerify(flags: Flags, context: CommandContext): Promise<void> {
  const { log, signal, globals, now } = context;
  const asked = { ...requestFrom(VERIFY_OPTIONS, { ...globals, ...flags }), arguments: flags.arguments as string[] };
  const percent = createPercent(log);
  const progress = createProgress(log, INTERVAL_MS, globals.quiet ?? false);
  let shown = -Infinity;
  const result = await verify(asked, {
    signal,
    now,
    report: (event) => {
      switch (event.kind) {
        case 'warning':
          context.warn(event);
          return;
        case 'target':
          log.write('info', `looking at ${event.target}`);
          return;
        case 'booting':
          log.write('info', `starting ${event.point} in a VM that nobody keeps`);
          return;
        case 'looking':
          percent('looking at files', event.percent);
          return;
        case 'reading':
          if (performance.now() - shown < progress.pollMs && event.done < event.total) return;
          shown = performance.now();
          progress.show([event]);
          return;
      }
    },
  });
  progress.end();
  context.answer(
    (warnings) => verifyDocument(result, warnings),
    () => renderVerify(result),
  );
  const findings = result.targets.flatMap((target) => target.findings);
  if (findings.some(({ level }) => level === 'error')) context.endWith('damaged');
  else if (findings.some(({ code }) => code === 'locked')) context.endWith('partial');
  else if (globals.strict && findings.some(({ level }) => level === 'warning')) context.endWith('warnings');
}
