/**
 * Fixed newstyle negotiation of one export: structured replies, the meta contexts that were asked for, all of them or
 * an error, and GO with the server's block sizes. TLS is not spoken.
 */
import { NbdProtocolViolation, NbdRefused } from './errors.js';
import {
  decodeOptionReply,
  encodeOption,
  encodeText,
  encodeUint16,
  encodeUint32,
  ExportFlag,
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  Info,
  MAGIC,
  MAGIC_NEWSTYLE,
  MAGIC_OLDSTYLE,
  MAX_LENGTH,
  MAX_PAYLOAD,
  Option,
  OPTION_ERROR,
  OPTION_REPLY_BYTES,
  OptionError,
  OptionReply,
  type OptionReplyHead,
  type Reader,
  take,
} from './wire.js';

export interface ExportRequest {
  readonly exportName: string;
  /** Meta contexts by their full names, as `base:allocation`. */
  readonly contexts: readonly string[];
}

export interface NbdExport {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canWriteZeroes: boolean;
  readonly structuredReplies: boolean;
  /** Offsets and lengths must be multiples of this: a power of two of bytes. */
  readonly minBlock: number;
  readonly preferredBlock: number;
  /** Bytes of data that one request may carry, at most 32 MiB. */
  readonly maxPayload: number;
  /** The server's id of each context that was asked for. */
  readonly contextIds: ReadonlyMap<string, number>;
}

/** No reply to an option has a reason to be longer. */
const MAX_REPLY = 65_536;
const MAX_NAME = 4096;

interface OptionAnswer extends OptionReplyHead {
  readonly data: Buffer;
}

/**
 * Reads the server's side and answers through `send`.
 *
 * @throws NbdRefused, NbdProtocolViolation
 */
export function* negotiate(request: ExportRequest, send: (bytes: Buffer) => void): Reader<NbdExport> {
  for (const name of [request.exportName, ...request.contexts]) {
    if (Buffer.byteLength(name) > MAX_NAME) throw new NbdRefused('other', `an NBD name has at most ${MAX_NAME} bytes`);
  }
  yield* greet(send);
  send(encodeOption(Option.structuredReply));
  const structuredReplies = readStructuredAnswer(yield* answerTo(Option.structuredReply));
  const contextIds = new Map<string, number>();
  if (request.contexts.length > 0) {
    if (!structuredReplies) {
      throw new NbdRefused('unsupported', 'the NBD server has no structured replies, and so cannot tell extents');
    }
    send(encodeOption(Option.setMetaContext, contextQuery(request)));
    yield* readContexts(request, contextIds);
  }
  send(encodeOption(Option.go, goRequest(request.exportName)));
  return yield* readExport(request.exportName, structuredReplies, contextIds);
}

function* greet(send: (bytes: Buffer) => void): Reader<void> {
  const magic = yield* take(8);
  if (!magic.equals(MAGIC))
    throw new NbdProtocolViolation(`it greets with ${JSON.stringify(magic.toString('latin1'))}`);
  const style = yield* take(8);
  if (style.equals(MAGIC_OLDSTYLE)) throw new NbdRefused('unsupported', 'the NBD server speaks only the old protocol');
  if (!style.equals(MAGIC_NEWSTYLE)) throw new NbdProtocolViolation('its second magic number is not known');
  const flags = (yield* take(2)).readUInt16BE();
  if ((flags & HANDSHAKE_FIXED_NEWSTYLE) === 0) {
    throw new NbdRefused('unsupported', 'the NBD server does not speak the fixed newstyle protocol');
  }
  send(encodeUint32(flags & (HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES)));
}

function* answerTo(option: number): Reader<OptionAnswer> {
  const head = decodeOptionReply(yield* take(OPTION_REPLY_BYTES));
  if (head === undefined) throw new NbdProtocolViolation('its reply to an option begins with a wrong magic number');
  if (head.option !== option) throw new NbdProtocolViolation(`it answers option ${head.option} instead of ${option}`);
  if (head.length > MAX_REPLY) throw new NbdProtocolViolation(`its reply to an option has ${head.length} bytes`);
  return { ...head, data: yield* take(head.length) };
}

function readStructuredAnswer(answer: OptionAnswer): boolean {
  if (answer.type === OptionReply.ack) return true;
  // Whatever else the server refuses it for, it goes on with simple replies, and what needs more will say so.
  if (answer.type >= OPTION_ERROR && answer.type !== OptionError.tlsRequired) return false;
  throw refusedOr(answer, 'structured replies');
}

function contextQuery({ exportName, contexts }: ExportRequest): Buffer {
  return Buffer.concat([encodeText(exportName), encodeUint32(contexts.length), ...contexts.map(encodeText)]);
}

function* readContexts({ exportName, contexts }: ExportRequest, ids: Map<string, number>): Reader<void> {
  for (;;) {
    const answer = yield* answerTo(Option.setMetaContext);
    if (answer.type === OptionReply.ack) break;
    if (answer.type !== OptionReply.metaContext) throw refusedOr(answer, `export '${exportName}'`);
    if (answer.data.length < 4) throw new NbdProtocolViolation('a meta context has no id');
    const [id, name] = [answer.data.readUInt32BE(), answer.data.toString('utf8', 4)];
    if (!contexts.includes(name)) throw new NbdProtocolViolation(`it offers '${name}', which was not asked for`);
    if (ids.has(name) || [...ids.values()].includes(id)) {
      throw new NbdProtocolViolation(`it gives the meta context '${name}' or its id ${id} twice`);
    }
    ids.set(name, id);
  }
  // A context that is not known is left out without a word.
  const missing = contexts.find((name) => !ids.has(name));
  if (missing !== undefined) {
    throw new NbdRefused('context', `the NBD server has no '${missing}' for the export '${exportName}'`);
  }
}

function goRequest(exportName: string): Buffer {
  return Buffer.concat([encodeText(exportName), encodeUint16(1), encodeUint16(Info.blockSize)]);
}

function* readExport(
  name: string,
  structuredReplies: boolean,
  contextIds: ReadonlyMap<string, number>,
): Reader<NbdExport> {
  let sizeAndFlags: { readonly size: number; readonly flags: number } | undefined;
  let blocks = { minBlock: 1, preferredBlock: 4096, maxPayload: MAX_PAYLOAD };
  for (;;) {
    const answer = yield* answerTo(Option.go);
    if (answer.type === OptionReply.ack) break;
    if (answer.type !== OptionReply.info) throw refusedOr(answer, `export '${name}'`);
    const { data } = answer;
    const info = data.length < 2 ? -1 : data.readUInt16BE();
    const expected = info === Info.export ? 12 : info === Info.blockSize ? 14 : data.length;
    if (info < 0 || data.length !== expected)
      throw new NbdProtocolViolation('an info about the export has a wrong size');
    if (info === Info.export) {
      const size = Number(data.readBigUInt64BE(2));
      if (!Number.isSafeInteger(size)) throw new NbdProtocolViolation('the export is larger than 2^53 bytes');
      sizeAndFlags = { size, flags: data.readUInt16BE(10) };
    } else if (info === Info.blockSize) {
      blocks = readBlockSizes(data);
    }
  }
  if (sizeAndFlags === undefined) throw new NbdProtocolViolation('it does not tell the size of the export');
  const { size, flags } = sizeAndFlags;
  return {
    name,
    size,
    readOnly: (flags & ExportFlag.readOnly) !== 0,
    canFlush: (flags & ExportFlag.sendFlush) !== 0,
    canWriteZeroes: (flags & ExportFlag.sendWriteZeroes) !== 0,
    structuredReplies,
    ...blocks,
    contextIds,
  };
}

function readBlockSizes(data: Buffer): Pick<NbdExport, 'minBlock' | 'preferredBlock' | 'maxPayload'> {
  const [minBlock, preferredBlock, max] = [data.readUInt32BE(2), data.readUInt32BE(6), data.readUInt32BE(10)];
  const power = minBlock > 0 && (minBlock & (minBlock - 1)) === 0;
  if (!power || minBlock > 65_536 || preferredBlock < minBlock || (max !== MAX_LENGTH && max % minBlock !== 0)) {
    throw new NbdProtocolViolation(`block sizes of ${minBlock}, ${preferredBlock} and ${max} make no sense`);
  }
  if (max < minBlock) throw new NbdProtocolViolation('its largest block is smaller than its smallest');
  return { minBlock, preferredBlock, maxPayload: Math.min(max, MAX_PAYLOAD) };
}

/** The server's no in its own words, or a violation where the answer is none. */
function refusedOr({ type, data }: OptionAnswer, what: string): NbdRefused | NbdProtocolViolation {
  if (type < OPTION_ERROR) return new NbdProtocolViolation(`its reply of type ${type} does not fit the option`);
  const words = data.toString('utf8').replace(/\0+$/, '').slice(0, 500);
  const because = words === '' ? '' : `: ${words}`;
  switch (type) {
    case OptionError.unknown:
      return new NbdRefused('export', `the NBD server has no ${what}${because}`);
    case OptionError.tlsRequired:
      return new NbdRefused('tls', `the NBD server demands TLS, which is not supported here${because}`);
    case OptionError.unsupported:
      return new NbdRefused('unsupported', `the NBD server does not support what is needed for ${what}${because}`);
    default:
      return new NbdRefused('other', `the NBD server refused ${what} (${type - OPTION_ERROR})${because}`);
  }
}
