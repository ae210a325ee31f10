import { methodOfPieces } from '../../core/pieces.js';
import type { Point, PointDefinition, PointDisk } from '../../core/point.js';
import { lackedPart, machinePart } from './parts.js';
import type { PointDocument } from './schemas/point.js';

/** A point as the catalog has it, but for QEMU's own description of each image. */
export function pointDocument(point: Point): PointDocument {
  const { id, chain, number, level, createdAt, consistency, vmStatus, removed, lacks, definition } = point;
  const { pinned = false, note = null } = point;
  return {
    id,
    chain,
    number,
    level,
    createdAt,
    consistency,
    vmStatus,
    machine: machinePart(point.machine),
    disks: point.disks.map(diskPart),
    removed,
    lacks: lacks?.map(lackedPart),
    definition: definition && definitionPart(definition),
    pinned,
    note,
  };
}

function diskPart(entry: PointDisk): PointDocument['disks'][number] {
  const { disk, level, reason, state, file, parent, bitmap, suspect } = entry;
  const { virtualSize, size, allocated, mtimeMs, sha256, pieces, changed, durationMs } = entry;
  const { device, qdev, node, file: image, format } = entry.source;
  return {
    disk,
    level,
    reason,
    state,
    file,
    parent,
    bitmap: bitmap && { name: bitmap.name, persistent: bitmap.persistent },
    virtualSize,
    size,
    allocated,
    mtimeMs,
    sha256,
    pieces: pieces ? { method: methodOfPieces(pieces), bytes: pieces.bytes, sha256: pieces.sha256 } : null,
    changed,
    durationMs,
    plaintextOfEncrypted: entry.plaintextOfEncrypted,
    compressed: entry.compressed,
    compared: entry.compared ?? false,
    suspect,
    source: { device, qdev, node, file: image, format },
  };
}

function definitionPart({ files, autostart, missing }: PointDefinition): PointDocument['definition'] {
  return {
    files: files.map(({ kind, file, path, size, sha256 }) => ({ kind, file, path, size, sha256 })),
    autostart,
    missing,
  };
}
