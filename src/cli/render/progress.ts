import type { DiskProgress } from '../../backends/backup-run.js';
import type { Log } from '../log.js';
import { formatBytes, formatDuration } from './units.js';

/** Progress of several disks: one line that is written over on a terminal, a line per disk and interval otherwise. */
export interface ProgressPrinter {
  /** Milliseconds between two looks that this printer wants. */
  readonly pollMs: number;
  readonly show: (disks: readonly DiskProgress[]) => void;
  readonly end: () => void;
}

export function createProgress(log: Log, intervalMs: number, quiet: boolean): ProgressPrinter {
  const onTerminal = process.stderr.isTTY && !quiet;
  const begun = performance.now();
  let printed = begun;
  return {
    pollMs: onTerminal ? 500 : Math.min(intervalMs, 1000),
    show: (disks) => {
      log.progress(
        'bytes',
        disks.map(({ disk: name, done, total }) => ({ name, done, total })),
      );
      const elapsed = performance.now() - begun;
      if (onTerminal) {
        const line = disks.map((disk) => progressText(disk, elapsed)).join(' | ');
        log.transient(line.slice(0, Math.max(20, (process.stderr.columns || 80) - 1)));
      } else if (performance.now() - printed >= intervalMs) {
        printed = performance.now();
        for (const disk of disks) log.write('info', progressText(disk, elapsed));
      }
    },
    end: () => log.transient(''),
  };
}

/** `vd1: 42 %, 1.2 GiB of 2.9 GiB, 105 MiB/s, 16.1 s left` */
export function progressText({ disk, done, total }: DiskProgress, elapsedMs: number): string {
  const percent = total === 0 ? 100 : Math.floor((done / total) * 100);
  const parts = [`${disk}: ${percent} %`, `${formatBytes(done)} of ${formatBytes(total)}`];
  if (done > 0 && elapsedMs > 0) {
    const rate = (done / elapsedMs) * 1000;
    parts.push(`${formatBytes(rate)}/s`);
    if (done < total) parts.push(`${formatDuration(((total - done) / rate) * 1000)} left`);
  }
  return parts.join(', ');
}

/** Percent of one long step, on a terminal and in JSON lines only. */
export function createPercent(log: Log): (step: string, percent: number) => void {
  let told = '';
  return (step, percent) => {
    const done = Math.floor(percent);
    const text = `${step}: ${done} %`;
    // qemu-img tells each hundredth of a percent.
    if (text === told) return;
    told = text;
    log.transient(text);
    log.progress('percent', [{ name: step, done, total: 100 }]);
  };
}
