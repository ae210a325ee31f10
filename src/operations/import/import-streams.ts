import { realpath } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { contextOf } from '../../backends/verb-context.js';
import { QmpBackupError } from '../../errors.js';
import { type ImportPlan, planImport } from '../../import/import-plan.js';
import { readRaw, readStream } from '../../import/stream-file.js';
import { inFile, readStreamFolder } from '../../import/stream-folder.js';
import { nodeOf } from '../../qemu-tools/image-view.js';
import { type DiskSink, openSink } from '../../qemu-tools/image-writer.js';
import { diskFolder } from '../../repository/layout.js';
import { refuseDiskFolder } from '../../repository/nesting.js';
import { carryOutImport, warnIn } from './carry-out.js';
import {
  ancestorsOf,
  type ImportFile,
  type ImportFileOptions,
  type ImportKind,
  type WrittenData,
} from './import-file.js';
import { type ImportContext, type ImportResult, type ImportRun, randomId } from './import-run.js';
import type { ImportOptions } from './options.js';

/**
 * Turns the folder of another tool into a chain in a new target: every backup in it a point, all of them valid at once
 * or none. The folder is only read.
 *
 * @throws QmpBackupError `no-catalog` when there is no such folder; `usage`; `locked`; `unsafe` for a target that is in
 * use, a gap, an unfinished or contradictory stream, a link; `damaged` for a stream that is not whole. Nothing is left then.
 */
export async function importStreams(options: ImportOptions, given: Partial<ImportContext>): Promise<ImportResult> {
  const context = contextOf(given);
  const folder = await readStreamFolder(options.source);
  const plan = planImport(folder.files, folder.runs);
  const vm = { uuid: folder.vm?.uuid ?? null, name: folder.vm?.name ?? null, label: options.label };
  const run: ImportRun = {
    ...{ options, context, plan, vm, kind: STREAMS, need: spaceOf(plan) },
    ...{ target: resolve(options.target), attempt: randomId() },
  };
  await refuseSameFolder(options.source, run.target);
  await refuseDiskFolder(run.target);
  for (const each of [...folder.warnings, ...plan.warnings]) warnIn(run, each);
  return carryOutImport(run);
}

async function refuseSameFolder(source: string, target: string): Promise<void> {
  const real = await realpath(target).catch(() => target);
  if ((await realpath(source)) !== real) return;
  throw new QmpBackupError('usage', 'the backups cannot be imported into their own folder', {
    hint: 'Give a new folder: --target DIR',
  });
}

function spaceOf(plan: ImportPlan): number {
  const disks = plan.points.flatMap((point) => point.disks);
  return disks.reduce((sum, { source }) => sum + (source.meta?.dataSize ?? 0), 0);
}

// --- a stream --------------------------------------------------------------------------------------------------------

const STREAMS: ImportKind = {
  name: 'virtnbdbackup',
  copy: (file, options) =>
    copyStream(file, options).catch((error: unknown) => {
      throw inFile(file.from.name, error);
    }),
  sourceOf: ({ disk, from }) => ({
    // By libvirt's name for it the disk is known again.
    ...{ device: disk, qdev: null, node: null, file: '' },
    ...{ format: from.meta?.format ?? 'raw', image: null },
  }),
};

async function copyStream(file: ImportFile, options: ImportFileOptions): Promise<WrittenData> {
  const { from, disk } = file;
  const cwd = diskFolder(options.target, disk);
  const line = [...ancestorsOf(file).map((each) => each.file), `${file.file}.partial`];
  const sink = await openSink({ ...nodeOf(line), 'detect-zeroes': 'on' }, { cwd, signal: options.signal });
  try {
    const written = await writeEvents(file, sink, options, join(options.source, from.name));
    await sink.finish();
    return written;
  } finally {
    await sink.close();
  }
}

async function writeEvents(
  { parent, from, virtualSize }: ImportFile,
  sink: DiskSink,
  { signal, onProgress }: ImportFileOptions,
  path: string,
): Promise<WrittenData> {
  let [bytes, zeroRecords, percent] = [0, 0, 0];
  const total = from.meta?.dataSize ?? virtualSize;
  for await (const event of from.meta ? readStream(path, signal) : readRaw(path, signal)) {
    switch (event.kind) {
      case 'data':
        await sink.write(event.offset, event.bytes);
        bytes += event.bytes.length;
        break;
      case 'zero':
        // Nothing is below a whole backup, and what nobody wrote is zeros.
        if (parent) await sink.zero(event.offset, event.length);
        break;
      case 'end':
        ({ zeroRecords } = event);
        break;
      case 'meta':
        if (!isDeepStrictEqual(event.meta, from.meta)) throw new QmpBackupError('unsafe', 'it was changed meanwhile');
        break;
    }
    const now = Math.floor((bytes / Math.max(1, total)) * 100);
    if (now !== percent) onProgress((percent = now));
  }
  return { bytes, zeroRecords };
}
