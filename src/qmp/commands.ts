/**
 * The commands of QMP that this project uses: their arguments as types, a deadline for each, and replies checked
 * against the shapes of `replies.ts`, so that an unforeseen QEMU is noticed here and not three layers above.
 */
import * as v from 'valibot';
import type { ExecuteOptions, QmpClient } from './client.js';
import { QmpProtocolError } from './errors.js';
import * as replies from './replies.js';

type NoArguments = Readonly<Record<string, never>>;

export interface TransactionAction {
  readonly type: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface CommandArguments {
  'query-status': NoArguments;
  'query-migrate': NoArguments;
  'query-name': NoArguments;
  'query-uuid': NoArguments;
  'query-version': NoArguments;
  'query-block': NoArguments;
  'query-named-block-nodes': { readonly flat?: boolean };
  'x-debug-query-block-graph': NoArguments;
  'query-jobs': NoArguments;
  'query-block-jobs': NoArguments;
  'query-block-exports': NoArguments;
  'query-iothreads': NoArguments;
  'query-tpm': NoArguments;
  'query-cpus-fast': NoArguments;
  'query-memory-size-summary': NoArguments;
  'query-target': NoArguments;
  'query-hotpluggable-cpus': NoArguments;
  'query-commands': NoArguments;
  'query-qmp-schema': NoArguments;
  'qom-list': { readonly path: string };
  'qom-get': { readonly path: string; readonly property: string };
  'qom-set': { readonly path: string; readonly property: string; readonly value: unknown };
  stop: NoArguments;
  cont: NoArguments;
  transaction: { readonly actions: readonly TransactionAction[] };
  'job-cancel': { readonly id: string };
  'job-dismiss': { readonly id: string };
  'job-finalize': { readonly id: string };
  /** `speed` in bytes per second, 0 is no limit. */
  'block-job-set-speed': { readonly device: string; readonly speed: number };
  'block-dirty-bitmap-add': {
    readonly node: string;
    readonly name: string;
    readonly granularity?: number;
    readonly persistent?: boolean;
    readonly disabled?: boolean;
  };
  'block-dirty-bitmap-remove': { readonly node: string; readonly name: string };
  'block-dirty-bitmap-disable': { readonly node: string; readonly name: string };
  'blockdev-add': { readonly driver: string; readonly 'node-name': string } & Readonly<Record<string, unknown>>;
  'blockdev-reopen': { readonly options: readonly Readonly<Record<string, unknown>>[] };
  'blockdev-del': { readonly 'node-name': string };
  /** `speed` in bytes per second, 0 is no limit. All that the image does not have is copied into it. */
  'block-stream': {
    readonly 'job-id': string;
    readonly device: string;
    readonly speed: number;
    readonly 'auto-dismiss': boolean;
  };
  screendump: { readonly filename: string; readonly format?: 'png' | 'ppm' };
  'nbd-server-start': {
    readonly addr:
      | { readonly type: 'unix'; readonly data: { readonly path: string } }
      | { readonly type: 'inet'; readonly data: { readonly host: string; readonly port: string } };
  };
  'nbd-server-stop': NoArguments;
  'block-export-add': { readonly id: string; readonly 'node-name': string; readonly writable: boolean } & (
    | {
        readonly type: 'nbd';
        readonly name: string;
        readonly bitmaps?: readonly string[];
        readonly 'allocation-depth'?: boolean;
      }
    | { readonly type: 'fuse'; readonly mountpoint: string }
  );
  'block-export-del': { readonly id: string; readonly mode: 'safe' | 'hard' };
  'human-monitor-command': { readonly 'command-line': string };
  system_powerdown: NoArguments;
  quit: NoArguments;
}

const REPLIES = {
  'query-status': replies.statusReply,
  'query-migrate': replies.migrateReply,
  'query-name': replies.nameReply,
  'query-uuid': replies.uuidReply,
  'query-version': replies.versionReply,
  'query-block': replies.blockReply,
  'query-named-block-nodes': replies.namedBlockNodesReply,
  'x-debug-query-block-graph': replies.blockGraphReply,
  'query-jobs': replies.jobsReply,
  'query-block-jobs': replies.blockJobsReply,
  'query-block-exports': replies.exportsReply,
  'query-iothreads': replies.iothreadsReply,
  'query-tpm': replies.tpmsReply,
  'query-cpus-fast': replies.cpusReply,
  'query-memory-size-summary': replies.memoryReply,
  'query-target': replies.targetReply,
  'query-hotpluggable-cpus': replies.hotpluggableReply,
  'query-commands': replies.commandsReply,
  'query-qmp-schema': replies.schemaReply,
  'qom-list': replies.objectsReply,
  'qom-get': replies.anyReply,
  'qom-set': replies.anyReply,
  stop: replies.anyReply,
  cont: replies.anyReply,
  transaction: replies.anyReply,
  'job-cancel': replies.anyReply,
  'job-dismiss': replies.anyReply,
  'job-finalize': replies.anyReply,
  'block-job-set-speed': replies.anyReply,
  'block-dirty-bitmap-add': replies.anyReply,
  'block-dirty-bitmap-remove': replies.anyReply,
  'block-dirty-bitmap-disable': replies.anyReply,
  'blockdev-add': replies.anyReply,
  'blockdev-reopen': replies.anyReply,
  'blockdev-del': replies.anyReply,
  'block-stream': replies.anyReply,
  screendump: replies.anyReply,
  'nbd-server-start': replies.anyReply,
  'nbd-server-stop': replies.anyReply,
  'block-export-add': replies.anyReply,
  'block-export-del': replies.anyReply,
  'human-monitor-command': replies.textReply,
  system_powerdown: replies.anyReply,
  quit: replies.anyReply,
} as const satisfies Record<keyof CommandArguments, v.GenericSchema>;

export type CommandName = keyof CommandArguments;
export type ReplyOf<N extends CommandName> = v.InferOutput<(typeof REPLIES)[N]>;

/** QEMU answers a query from its main loop, which a flush or a drain on slow storage may hold up for a while. */
const QUERY_MS = 30_000;
/** What opens, closes or writes an image waits for storage, which may be a network away. */
const STORAGE_MS = 60_000;

/** How long each command may take, in ms. A shorter one (as within a freeze) is given to `run`. */
export const DEADLINES_MS: Readonly<Record<CommandName, number>> = {
  'query-status': QUERY_MS,
  'query-migrate': QUERY_MS,
  'query-name': QUERY_MS,
  'query-uuid': QUERY_MS,
  'query-version': QUERY_MS,
  'query-block': QUERY_MS,
  'query-named-block-nodes': QUERY_MS,
  'x-debug-query-block-graph': QUERY_MS,
  'query-jobs': QUERY_MS,
  'query-block-jobs': QUERY_MS,
  'query-block-exports': QUERY_MS,
  'query-iothreads': QUERY_MS,
  'query-tpm': QUERY_MS,
  'query-cpus-fast': QUERY_MS,
  'query-memory-size-summary': QUERY_MS,
  'query-target': QUERY_MS,
  'query-hotpluggable-cpus': QUERY_MS,
  'query-commands': QUERY_MS,
  'query-qmp-schema': QUERY_MS,
  'qom-list': QUERY_MS,
  'qom-get': QUERY_MS,
  'qom-set': STORAGE_MS,
  // Stopping flushes every disk.
  stop: STORAGE_MS,
  cont: QUERY_MS,
  transaction: QUERY_MS,
  'job-cancel': QUERY_MS,
  'job-dismiss': QUERY_MS,
  // Closes the target.
  'job-finalize': STORAGE_MS,
  'block-job-set-speed': QUERY_MS,
  'block-dirty-bitmap-add': STORAGE_MS,
  // Taking a stored bitmap out of an image rewrites its header.
  'block-dirty-bitmap-remove': STORAGE_MS,
  'block-dirty-bitmap-disable': QUERY_MS,
  'blockdev-add': STORAGE_MS,
  'blockdev-reopen': STORAGE_MS,
  'blockdev-del': STORAGE_MS,
  'block-stream': STORAGE_MS,
  screendump: STORAGE_MS,
  'nbd-server-start': QUERY_MS,
  'nbd-server-stop': QUERY_MS,
  'block-export-add': STORAGE_MS,
  'block-export-del': QUERY_MS,
  'human-monitor-command': STORAGE_MS,
  system_powerdown: QUERY_MS,
  quit: QUERY_MS,
};

type Rest<N extends CommandName> = NoArguments extends CommandArguments[N]
  ? [args?: CommandArguments[N], options?: ExecuteOptions]
  : [args: CommandArguments[N], options?: ExecuteOptions];

/**
 * Executes one command within its deadline and gives its reply in a known shape. Throws what `execute` throws, and
 * QmpProtocolError for a reply of another shape.
 */
export async function run<N extends CommandName>(
  client: Pick<QmpClient, 'execute'>,
  name: N,
  ...[args, options]: Rest<N>
): Promise<ReplyOf<N>> {
  const reply = await client.execute(name, args, {
    ...options,
    timeoutMs: options?.timeoutMs ?? DEADLINES_MS[name],
  });
  const result = v.safeParse<v.GenericSchema>(REPLIES[name], reply);
  if (result.success) return result.output;
  const [first] = result.issues;
  const path = v.getDotPath(first);
  throw new QmpProtocolError(
    `QEMU's reply to '${name}' has an unknown shape at ${path === null ? 'its top' : `'${path}'`}: ${first.message}`,
    { hint: 'this version of QEMU is probably newer than this program knows', cause: new v.ValiError(result.issues) },
  );
}
