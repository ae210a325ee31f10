import type { Warning } from '../../core/warning.js';
import type { MarkedPoint } from '../../operations/pin.js';
import { envelope } from './envelope.js';
import { warningPart } from './parts.js';
import type { NoteDocument, PinDocument, UnpinDocument } from './schemas/pin.js';

export function pinDocument(marked: MarkedPoint, warnings: readonly Warning[]): PinDocument {
  return { ...envelope('pin'), ...markPart(marked, warnings) };
}

export function unpinDocument(marked: MarkedPoint, warnings: readonly Warning[]): UnpinDocument {
  return { ...envelope('unpin'), ...markPart(marked, warnings) };
}

export function noteDocument(marked: MarkedPoint, warnings: readonly Warning[]): NoteDocument {
  return { ...envelope('note'), ...markPart(marked, warnings) };
}

function markPart(
  { target, point, name, changed }: MarkedPoint,
  warnings: readonly Warning[],
): Omit<PinDocument, 'schema' | 'command'> {
  const { id, chain, createdAt, pinned = false, note = null } = point;
  return { target, point: { id, chain, createdAt, pinned, note }, name, changed, warnings: warnings.map(warningPart) };
}
