import * as v from 'valibot';
import {
  count,
  document,
  failureSchema,
  flag,
  level,
  listOf,
  number,
  object,
  oneOf,
  text,
  textOrNull,
  texts,
  warnings,
} from './parts.js';
import { repairSchema } from './repair.js';
import { vmSchema } from './vm.js';

function orFailure<const Schema extends v.GenericSchema>(schema: Schema) {
  return v.union([schema, failureSchema]);
}

const disks = listOf(object({ id: text('Disk id in the target'), node: text('Node name') }, 'A disk'), 'Its disks');

const vm = object(
  {
    state: vmSchema,
    disks,
    beside: texts('What belongs to the machine and is in no point, in words'),
    missingCommands: texts('Commands that a backup needs and this QEMU does not have'),
    jobSparesGuest: flag('A target that fails can fail the job instead of the guest'),
    canFleece: flag('This QEMU has what fleecing needs'),
    user: textOrNull('The user whom QEMU runs as, where that can be seen'),
  },
  'The VM behind a monitor',
);

const scratch = object(
  {
    folder: text('Where scratch images would lie'),
    need: count('Bytes that they can grow to'),
    space: orFailure(object({ free: count('Bytes'), network: flag('On a network') }, 'Space there')),
    write: v.pipe(v.nullable(failureSchema), v.description('Why this user cannot make a folder there, or null')),
    barred: v.pipe(
      v.nullable(
        object({ folder: text('The folder'), uid: number('The user whom QEMU runs as') }, 'A folder that bars QEMU'),
      ),
      v.description('The first folder of the path that QEMU may not pass, or null'),
    ),
  },
  'A folder for scratch images',
);

const domain = object(
  {
    state: vmSchema,
    disks,
    uri: text('The libvirt that was asked'),
    version: text('Versions of libvirt and QEMU'),
    active: flag('A QEMU process has the disks open'),
    stateReason: text('Why it is in its state, in the words of libvirt; may be empty'),
    backing: v.pipe(
      v.record(v.string(), v.pipe(v.number(), v.integer())),
      v.readonly(),
      v.description('How many images the image of each disk builds on'),
    ),
    missingPrograms: texts('Programs that a pull needs and that were not found'),
    foreignCheckpoints: texts('Checkpoints of others'),
    snapshots: object(
      { internal: texts('Those inside of the images'), external: texts('Those that are images') },
      'Its snapshots',
    ),
    agent: object(
      {
        channel: oneOf(['absent', 'configured', 'connected', 'disconnected'], 'The channel of the agent'),
        answer: v.pipe(
          v.nullable(
            v.union([
              object({ fileSystems: count('Number of file systems that a freeze would reach') }, 'It answered'),
              v.literal('frozen'),
              failureSchema,
            ]),
          ),
          v.description('What the agent answered; null where it was not asked'),
        ),
      },
      'The guest agent',
    ),
    scratch: listOf(scratch, 'Where scratch images would lie'),
  },
  'A libvirt domain',
);

const agent = object(
  {
    version: text('Version of the agent'),
    missing: texts('Commands of a freeze that it does not have'),
    status: oneOf(['thawed', 'frozen'], 'State of the file systems'),
  },
  'The guest agent',
);

const plan = object(
  {
    disks: listOf(
      object({ disk: text('Disk id'), level, reason: text('Why this level, in words') }, 'A disk'),
      'The disks',
    ),
    known: texts('Disks that have a backup in this target'),
    need: count('Bytes that it can need'),
    fleece: object({ fleece: flag('By fleecing'), why: text('Why, in words') }, 'Whether by fleecing'),
  },
  'What `backup --level auto` would do now',
);

const content = object(
  {
    targetId: textOrNull('Id of the target; null where there is none yet'),
    points: count('Number of its points'),
    lastPointAt: textOrNull('When the newest was made, ISO 8601'),
    otherVm: textOrNull('Why it belongs to another VM, or null'),
    repairs: listOf(repairSchema, 'What the next run repairs'),
    broken: listOf(
      object({ file: text('`<disk>/<file>`'), why: text('What is wrong with it') }, 'A file'),
      'Files that the next increment cannot build on',
    ),
    damage: texts('Files that are gone or altered and what that costs, in words'),
    warnings: warnings('What could not be read'),
  },
  'What the target holds',
);

const target = object(
  {
    folder: text('Absolute path'),
    exists: flag('It exists'),
    lock: v.pipe(
      v.nullable(
        object(
          { who: text('Who holds it'), fate: oneOf(['alive', 'elsewhere'], 'It runs here, or on another host') },
          'The lock',
        ),
      ),
      v.description('The lock on it, or null'),
    ),
    space: orFailure(
      object(
        {
          free: count('Bytes'),
          total: count('Bytes'),
          reserve: count('Bytes that stay free'),
          network: flag('On a network'),
        },
        'Space there',
      ),
    ),
    content: orFailure(content),
    write: orFailure(
      object({ clockAheadMs: number('How far the clock of its file system is ahead') }, 'This user can write there'),
    ),
    qemuWrite: v.nullable(
      orFailure(object({ ok: v.pipe(v.literal(true), v.description('QEMU can write there')) }, 'QEMU can write there')),
    ),
    plan: v.nullable(orFailure(plan)),
  },
  'The target',
);

export const doctorDocumentSchema = document(
  'doctor',
  {
    findings: listOf(
      object(
        {
          level: oneOf(
            ['error', 'warning', 'info'],
            'error: a backup would fail; warning: it would be worse than expected',
          ),
          subject: text('A disk id, or VM, agent, scratch, target, host'),
          what: text('What was found, in words'),
          todo: textOrNull('What to do about it, or null'),
        },
        'A finding',
      ),
      'What was found, the worst first',
    ),
    facts: object(
      {
        now: text('ISO 8601, UTC'),
        clockStepMs: number('How far the clock was set while doctor ran, in milliseconds'),
        qemuImg: orFailure(text('Version of qemu-img')),
        vm: v.optional(orFailure(vm)),
        domain: v.optional(orFailure(domain)),
        agent: v.optional(orFailure(agent)),
        target: v.optional(orFailure(target)),
      },
      'What it was found from; what was not asked for is absent',
    ),
  },
  'The answer of `qmpbackup doctor`',
);

export type DoctorDocument = v.InferOutput<typeof doctorDocumentSchema>;
