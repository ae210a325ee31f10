/**
 * What a client asks of an NBD server, read along as its bytes pass: which export it chose, and which parts of it its requests are
 * about. After the protocol's doc/proto.md: each option and each request begins with a magic number, and has its length.
 */
export interface SeenRequest {
  readonly exportName: string;
  /** `read`: bytes are handed out; `status`: only where data and holes are. Others hand nothing out. */
  readonly kind: 'read' | 'status';
  /** Bytes; of a request that does not tell it in its header, `length` is Infinity. */
  readonly offset: number;
  readonly length: number;
}

const OPTION = 0x49484156454f5054n;
const [REQUEST, EXTENDED_REQUEST] = [0x25609513, 0x21e41c71];
const [EXPORT_NAME, INFO, GO] = [1, 6, 7];
const [READ, WRITE, CACHE, BLOCK_STATUS] = [0, 1, 5, 7];
/** NBD_CMD_FLAG_PAYLOAD_LEN: what follows the header has that length. */
const HAS_PAYLOAD = 1 << 5;
const [CLIENT_FLAGS, OPTION_HEADER] = [4, 16];
const [HEADER, EXTENDED_HEADER] = [28, 32];
/** Servers take less. */
const MOST_OPTION = 1024 * 1024;

/** Takes what a client sends, in portions of any size. @throws Error for what is no NBD: nothing after it is understood */
export class RequestReader {
  readonly #onRequest: (request: SeenRequest) => void;
  #rest = Buffer.alloc(0);
  #greeted = false;
  /** Bytes of a payload that are still to come. */
  #payload = 0;
  #exportName = '';

  constructor(onRequest: (request: SeenRequest) => void) {
    this.#onRequest = onRequest;
  }

  push(bytes: Buffer): void {
    let data = this.#rest.length === 0 ? bytes : Buffer.concat([this.#rest, bytes]);
    for (;;) {
      const skipped = Math.min(this.#payload, data.length);
      this.#payload -= skipped;
      data = data.subarray(skipped);
      const used = this.#payload > 0 ? 0 : this.#next(data);
      if (used === 0) break;
      data = data.subarray(used);
    }
    // A copy: the whole portion would be kept with it.
    this.#rest = Buffer.from(data);
  }

  /** How many bytes it took; 0 where more are needed. */
  #next(data: Buffer): number {
    if (!this.#greeted) {
      this.#greeted = data.length >= CLIENT_FLAGS;
      return this.#greeted ? CLIENT_FLAGS : 0;
    }
    if (data.length < OPTION_HEADER) return 0;
    if (data.readBigUInt64BE(0) === OPTION) return this.#option(data);
    const magic = data.readUInt32BE(0);
    const size = magic === REQUEST ? HEADER : magic === EXTENDED_REQUEST ? EXTENDED_HEADER : 0;
    if (size === 0) throw new Error('this is no NBD request');
    if (data.length < size) return 0;
    this.#request(data, magic === EXTENDED_REQUEST);
    return size;
  }

  #option(data: Buffer): number {
    const [option, length] = [data.readUInt32BE(8), data.readUInt32BE(12)];
    if (length > MOST_OPTION) throw new Error(`an NBD option of ${length} bytes`);
    const end = OPTION_HEADER + length;
    if (data.length < end) return 0;
    const content = data.subarray(OPTION_HEADER, end);
    if (option === EXPORT_NAME) this.#exportName = content.toString();
    if (option === GO || option === INFO) {
      if (length < 4 || content.readUInt32BE(0) > length - 4) throw new Error('an NBD option without its name');
      this.#exportName = content.toString('utf8', 4, 4 + content.readUInt32BE(0));
    }
    return end;
  }

  #request(data: Buffer, extended: boolean): void {
    const [flags, command] = [data.readUInt16BE(4), data.readUInt16BE(6)];
    const offset = Number(data.readBigUInt64BE(16));
    const length = extended ? Number(data.readBigUInt64BE(24)) : data.readUInt32BE(24);
    const payload = command === WRITE || (extended && (flags & HAS_PAYLOAD) !== 0);
    if (payload) this.#payload = length;
    if (command === READ || command === CACHE) this.#tell('read', offset, length);
    if (command === BLOCK_STATUS) this.#tell('status', offset, payload ? Infinity : length);
  }

  #tell(kind: SeenRequest['kind'], offset: number, length: number): void {
    this.#onRequest({ exportName: this.#exportName, kind, offset, length });
  }
}
