import { newDiskId } from '../../core/match-disks.js';
import { isOurBitmap } from '../../core/names.js';
import { asShellWord } from '../../core/shell-word.js';
import type { VmInfo } from '../../operations/info.js';
import { table } from './table.js';
import { formatBytes } from './units.js';

export type InfoTopic = 'blockdev' | 'bitmaps' | 'jobs';

/** `domain` is the name by which a libvirt domain was given, else null. */
export function renderInfo(info: VmInfo, topic: InfoTopic, domain: string | null): string {
  const text = renderTopic(info, topic, domain);
  return info.elsewhere === null ? text : `${text}\nIts images were not looked at: ${info.elsewhere}.`;
}

function renderTopic(info: VmInfo, topic: InfoTopic, domain: string | null): string {
  switch (topic) {
    case 'blockdev':
      return renderDevices(info);
    case 'bitmaps':
      return renderBitmaps(info, domain);
    case 'jobs':
      return renderJobs(info);
  }
}

function renderDevices({ vm, beside }: VmInfo): string {
  const rows = vm.disks.map((disk) => [
    newDiskId(disk),
    disk.device ?? '-',
    disk.qdev ?? '-',
    disk.address,
    disk.format + (disk.compat === '0.10' ? ' v2: full backups only' : ''),
    formatBytes(disk.virtualSize),
    disk.encrypted ? `${disk.file} (encrypted)` : disk.file,
  ]);
  const out = vm.leftOut.map(({ name, reason }) => `${name}: left out, ${reason}`);
  const more = beside.map((what) => `in no backup of it: ${what}`);
  return [
    table([['DISK', 'DEVICE', 'GUEST DEVICE', 'NODE', 'FORMAT', 'SIZE', 'IMAGE'], ...rows]),
    ...out,
    ...more,
  ].join('\n');
}

function renderBitmaps({ vm, tracked }: VmInfo, domain: string | null): string {
  const rows = vm.disks.flatMap((disk) =>
    disk.bitmaps.map((bitmap) => {
      const notes = [
        bitmap.persistent ? 'persistent' : 'until QEMU ends',
        ...(bitmap.inconsistent ? ['INCONSISTENT'] : []),
        ...(bitmap.recording ? [] : ['not recording']),
        ...(bitmap.busy ? ['busy'] : []),
        ...(isOurBitmap(bitmap.name) ? [] : ['not ours']),
      ];
      return [newDiskId(disk), bitmap.name, bitmap.uncounted ? '-' : formatBytes(bitmap.count), notes.join(', ')];
    }),
  );
  if (rows.length === 0) return 'no bitmaps';
  const refused =
    domain === null
      ? 'a tracked disk refuses to go back to an internal snapshot (loadvm, qemu-img snapshot -a)'
      : 'going back to an internal snapshot ends the domain, as QEMU refuses it where there are bitmaps';
  const off = domain === null ? ' (of a VM that is off: qmpbackup cleanup --remove-bitmaps --image FILE)' : '';
  const vmName = domain === null ? '--socket …' : `--domain ${asShellWord(domain)}`;
  const note = `\n${tracked.join(', ')}: ${refused}.
To allow it: qmpbackup ${vmName} cleanup --remove-bitmaps${off}; the next backup is then full.`;
  return table([['DISK', 'BITMAP', 'CHANGED', ''], ...rows]) + (tracked.length > 0 ? note : '');
}

function renderJobs({ vm }: VmInfo): string {
  if (vm.jobs.length === 0) return 'no jobs';
  const rows = vm.jobs.map(({ id, type, status, current, total, error }) => [
    id,
    type,
    status,
    `${formatBytes(current)} of ${formatBytes(total)}`,
    error ?? '',
  ]);
  return table([['JOB', 'TYPE', 'STATUS', 'PROGRESS', 'ERROR'], ...rows]);
}
