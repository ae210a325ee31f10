import type { Case } from './case.js';
import { comparison } from './cases/comparison.js';
import { compress } from './cases/compress.js';
import { consolidateCopied, consolidateReflinked } from './cases/consolidate.js';
import {
  domainFull,
  domainFullNoDigest,
  domainIncrement,
  domainIncrementOfNothing,
  domainMemory,
} from './cases/domain.js';
import { depths } from './cases/depth.js';
import { eightDisks } from './cases/eight-disks.js';
import { freezes } from './cases/freeze.js';
import { full, fullMemory, fullNoDigest } from './cases/full.js';
import { increment, incrementOfNothing } from './cases/increment.js';
import { run500 } from './cases/long-chain.js';
import { prune700 } from './cases/prune.js';
import { report, reportMemory } from './cases/report.js';
import { merge, restore, restoreCompared } from './cases/restore.js';
import { firstByte, served, servedProved } from './cases/served.js';
import { stream } from './cases/stream.js';
import { verifyBoot } from './cases/verify-boot.js';
import { verifyRead } from './cases/verify-read.js';

/** In the order in which they are run. */
export const ALL_CASES: readonly Case[] = [
  ...[full, fullNoDigest, fullMemory],
  ...[increment, incrementOfNothing],
  ...[comparison, stream],
  ...[restore, restoreCompared, merge],
  ...[verifyRead, served, servedProved, firstByte, verifyBoot],
  ...depths,
  ...[consolidateCopied, consolidateReflinked, prune700],
  ...[report, reportMemory],
  compress,
  ...freezes,
  eightDisks,
  ...[domainFull, domainFullNoDigest, domainIncrement, domainIncrementOfNothing, domainMemory],
  run500,
];
