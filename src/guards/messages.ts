/**
 * What a guard and its owner say to each other: one JSON line each, over the guard's stdin and stdout. Both ends are of
 * one build, so a line that does not fit is a fault, not a version to cope with.
 */
import * as v from 'valibot';
import { LineSplitter, parseJsonLine } from '../qmp/json-lines.js';

export interface Message {
  readonly type: string;
}

/** What is done about each type of message that may come. */
export type Handlers<Known extends Message> = {
  readonly [Type in Known['type']]: (message: Extract<Known, { readonly type: Type }>) => void;
};

/** Takes the bytes as they come, and hands on each message; throws at the first line that is none. */
export function messageReader(handlers: Readonly<Record<string, (message: never) => void>>): (chunk: Buffer) => void {
  const splitter = new LineSplitter();
  return (chunk) => {
    const { lines, fault } = splitter.push(chunk);
    for (const line of lines) {
      const value = parseJsonLine(line);
      const handle = v.is(messageSchema, value) && Object.hasOwn(handlers, value.type) && handlers[value.type];
      if (!handle) throw new Error(`not a message between guard and owner: ${JSON.stringify(value)}`);
      handle(value as never);
    }
    if (fault !== undefined) throw fault;
  };
}

const messageSchema = v.object({ type: v.string() });

/** As part of a task. */
export const endpointSchema = v.variant('kind', [
  v.object({ kind: v.literal('unix'), path: v.string() }),
  v.object({ kind: v.literal('tcp'), host: v.string(), port: v.number() }),
]);
