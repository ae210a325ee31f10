import {
  askedPoint,
  LOCK_OPTIONS,
  NAMED_VM_OPTIONS,
  POINT_OPTIONS,
  TARGET_OPTIONS,
} from '../../backends/vm-options.js';
import { type BootExpectation, expectation } from '../../core/boot-proof.js';
import {
  bytes,
  type OptionRules,
  type RequestOf,
  seconds,
  valuesOf,
  word,
  words,
  yesOrNo,
} from '../../core/option-rules.js';
import type { PointRequest } from '../../core/restore-plan.js';
import { type ReadShare, readShare } from '../../core/read-share.js';
import { timeSpan } from '../../core/time-span.js';
import { QmpBackupError } from '../../errors.js';
import { refuseWordsForQemu } from '../../machine/words-for-qemu.js';

export const VERIFY_OPTIONS = {
  ...TARGET_OPTIONS,
  ...NAMED_VM_OPTIONS,
  ...LOCK_OPTIONS,
  /** Only the files of one point; without, of all. */
  ...POINT_OPTIONS,
  /** Every byte is read and compared with the digests: of all files, of a part (`3/7`), or of a share (`10%`). */
  readData: readShare('--read-data'),
  /** Only what was not read for so long, `30d`; reads all of it unless `readData` says less. */
  outdatedAfter: timeSpan('--outdated-after'),
  /** Bytes per second of what is read; 0 is no limit. */
  rateLimit: bytes('--rate-limit', 0),
  /** Starts the point, or the newest, in a VM that nobody keeps. */
  boot: yesOrNo('--boot'),
  /** What tells that it has booted; without, its guest agent. */
  expect: expectation('--expect'),
  /** Seconds that it may take. */
  timeout: seconds('--timeout', 300),
  /** A channel for the guest agent although the VM had none. */
  agent: yesOrNo('--agent'),
  /** Folder for a picture of its screen, and for what it said on its serial port. */
  evidence: word('--evidence'),
  /** URI of the libvirt that starts a point of a domain; without, as virsh. */
  connect: word('--connect'),
  /** More arguments for its QEMU. */
  arguments: words('arguments after --'),
  /** Mends what can be mended without losing a point. */
  repair: yesOrNo('--repair'),
} satisfies OptionRules;

export type VerifyRequest = RequestOf<typeof VERIFY_OPTIONS>;

export interface VerifyTargetOptions {
  readonly target: string;
  readonly monthly: boolean;
  /** `--vm-name`. */
  readonly label: string | null;
  /** Null is all points. */
  readonly point: Pick<PointRequest, 'point' | 'at'> | null;
  /** Null where no data is read. */
  readonly share: ReadShare | null;
  /** Days; null is whatever it was. */
  readonly outdatedAfter: number | null;
  readonly rateLimit: number;
  readonly repair: boolean;
  /** `--boot`; null without. */
  readonly trial: BootTrial | null;
  readonly breakLock: boolean;
}

/** How a point is started. */
export interface BootTrial {
  readonly expect: BootExpectation | null;
  readonly timeoutMs: number;
  readonly agent: boolean;
  readonly evidence: string | null;
  readonly connect: string | null;
  readonly more: readonly string[];
}

/** @throws QmpBackupError `usage` */
export function verifyOptions(request: VerifyRequest): VerifyTargetOptions {
  const {
    readData,
    outdatedAfter,
    vmName,
    point,
    at,
    boot,
    expect,
    timeout,
    agent,
    evidence,
    connect,
    arguments: more,
    ...values
  } = valuesOf(VERIFY_OPTIONS, request);
  if (!boot && (expect !== null || agent || evidence !== null || more.length > 0)) {
    throw new QmpBackupError('usage', '--expect, --agent, --evidence and arguments for QEMU go with --boot');
  }
  refuseWordsForQemu(more, 'verify --boot');
  if (expect?.kind === 'running' && expect.seconds >= timeout) {
    throw new QmpBackupError(
      'usage',
      `--expect running:${expect.seconds} takes longer than --timeout ${timeout} allows`,
    );
  }
  const trial = boot ? { expect, timeoutMs: timeout * 1000, agent, evidence, connect, more } : null;
  if (vmName !== null && !values.monthly) {
    throw new QmpBackupError('usage', '--vm-name goes with --monthly', {
      hint: 'It names the folder of one VM below --target. Without it every target there is verified.',
    });
  }
  const one = point === null && at === null ? null : askedPoint({ point, at });
  if (values.repair && one !== null) {
    const flag = point === null ? '--at' : '--point';
    throw new QmpBackupError('usage', `--repair is of a whole target, and ${flag} names a part of it`, {
      hint: 'Leave one of them out.',
    });
  }
  const share = readData ?? (outdatedAfter === null ? null : { kind: 'all' as const });
  return { ...values, point: one, label: vmName, share, outdatedAfter, trial };
}
