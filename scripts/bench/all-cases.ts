import type { Case } from './case.js';
import { compress } from './cases/compress.js';
import {
  domainFull,
  domainFullNoDigest,
  domainIncrement,
  domainIncrementOfNothing,
  domainMemory,
} from './cases/domain.js';
import { eightDisks } from './cases/eight-disks.js';
import { freezes } from './cases/freeze.js';
import { full, fullMemory, fullNoDigest } from './cases/full.js';
import { increment, incrementOfNothing } from './cases/increment.js';
import { run500 } from './cases/long-chain.js';
import { merge, restore } from './cases/restore.js';

/** In the order in which they are run. */
export const ALL_CASES: readonly Case[] = [
  ...[full, fullNoDigest, fullMemory],
  ...[increment, incrementOfNothing],
  ...[restore, merge],
  compress,
  ...freezes,
  eightDisks,
  ...[domainFull, domainFullNoDigest, domainIncrement, domainIncrementOfNothing, domainMemory],
  run500,
];
