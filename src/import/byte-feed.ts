/**
 * Parsers of byte streams, written straight down as generators: they ask for bytes and give events, and how the stream
 * was cut into chunks does not matter to them.
 */
export class Need {
  constructor(
    readonly bytes: number,
    /** What is there is taken, at least one byte. */
    readonly orLess: boolean,
  ) {}
}

export type Parser<E, R = void> = Generator<Need | E, R, Uint8Array>;

/** What is asked for is valid until the next bytes are. */
export function* exactly(bytes: number): Generator<Need, Uint8Array, Uint8Array> {
  return bytes === 0 ? NOTHING : yield new Need(bytes, false);
}

/** At least one byte, at most `bytes`; valid as long. */
export function* atMost(bytes: number): Generator<Need, Uint8Array, Uint8Array> {
  return yield new Need(bytes, true);
}

const NOTHING = new Uint8Array(0);

/** Feeds one parser, chunk by chunk. */
export class ByteFeed<E> {
  readonly #parser: Parser<E, unknown>;
  /** Bytes that were pushed and not yet taken, in order. */
  readonly #chunks: Uint8Array[] = [];
  #held = 0;
  #need: Need | undefined;
  #done = false;

  constructor(parser: Parser<E, unknown>) {
    this.#parser = parser;
  }

  /** The parser has seen the end of what it parses. */
  get done(): boolean {
    return this.#done;
  }

  /** Bytes that the parser has not taken. */
  get left(): number {
    return this.#held;
  }

  /** What the parser makes of the bytes so far, one event at a time. Throws what the parser throws. */
  *push(chunk: Uint8Array): Generator<E, void, void> {
    if (chunk.length > 0) this.#chunks.push(chunk);
    this.#held += chunk.length;
    if (this.#need === undefined) yield* this.#run(NOTHING);
    while (!this.#done && this.#need && this.#held >= (this.#need.orLess ? 1 : this.#need.bytes)) {
      yield* this.#run(this.#need.orLess ? this.#head(this.#need.bytes) : this.#take(this.#need.bytes));
    }
    // What is kept for the next chunk must not be a part of this one, which its owner may use again.
    if (!this.#done && this.#held > 0) this.#chunks.splice(0, this.#chunks.length, this.#joined(this.#held));
  }

  *#run(bytes: Uint8Array): Generator<E, void, void> {
    for (let step = this.#parser.next(bytes); ; step = this.#parser.next(NOTHING)) {
      if (step.done === true) {
        this.#done = true;
        return;
      }
      if (step.value instanceof Need) {
        this.#need = step.value;
        return;
      }
      yield step.value;
    }
  }

  /** Up to `bytes` of the first chunk. */
  #head(bytes: number): Uint8Array {
    const [first = NOTHING] = this.#chunks;
    const head = first.subarray(0, bytes);
    this.#drop(head.length);
    return head;
  }

  #take(bytes: number): Uint8Array {
    const [first = NOTHING] = this.#chunks;
    if (first.length >= bytes) return this.#head(bytes);
    const joined = this.#joined(bytes);
    this.#drop(bytes);
    return joined;
  }

  #joined(bytes: number): Uint8Array {
    const joined = new Uint8Array(bytes);
    let at = 0;
    for (const chunk of this.#chunks) {
      if (at === bytes) break;
      const part = chunk.subarray(0, bytes - at);
      joined.set(part, at);
      at += part.length;
    }
    return joined;
  }

  #drop(bytes: number): void {
    this.#held -= bytes;
    for (let left = bytes; left > 0;) {
      const [first = NOTHING] = this.#chunks;
      if (first.length > left) {
        this.#chunks[0] = first.subarray(left);
        return;
      }
      this.#chunks.shift();
      left -= first.length;
    }
  }
}
