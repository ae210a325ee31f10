import * as v from 'valibot';
import { flag, text, texts } from './parts.js';

function action<const Kind extends string, const Entries extends v.ObjectEntries>(
  kind: Kind,
  entries: Entries,
  what: string,
) {
  return v.pipe(
    v.strictObject({ kind: v.pipe(v.literal(kind), v.description('What is done')), ...entries }),
    v.readonly(),
    v.description(what),
  );
}

const guest = v.variant('kind', [
  action('agent', { endpoint: text('Its socket') }, 'The guest agent that froze it'),
  action('domain', { uuid: text('UUID of the domain') }, 'The libvirt domain that was frozen'),
]);

/** One repair of what a run that died has left behind. */
export const repairSchema = v.variant('kind', [
  action('thaw', { guest }, 'The guest is thawed'),
  action('continue', {}, 'The VM, which the run had stopped, goes on'),
  action(
    'end-job',
    { job: text('Id of the job'), concluded: flag('It has ended, and only its result is left') },
    'A job of the run is ended',
  ),
  action('remove-export', { id: text('Id of the export') }, 'An NBD export of the run is removed from the VM'),
  action('stop-nbd-server', {}, "The VM's NBD server, which the run had started, is stopped"),
  action(
    'take-out-filter',
    {
      qdev: text('The guest device'),
      filter: text('Node name of the filter'),
      node: text('Node name that the device gets back'),
    },
    'A filter of the run is taken out',
  ),
  action('remove-node', { node: text('Node name') }, 'A block node of the run is removed from the VM'),
  action('delete-scratch', { folder: text('Absolute path') }, 'Scratch images of the run are deleted'),
  action(
    'remove-bitmap',
    { node: text('Node name'), bitmap: text('Name of the bitmap'), why: text('Why, in words') },
    'A dirty bitmap that no point needs is removed',
  ),
  action(
    'redefine-checkpoint',
    {
      checkpoint: text('Name of the checkpoint'),
      createdAt: text('When its point was made, ISO 8601'),
      disks: texts('Targets of its disks'),
    },
    'libvirt is told again of a checkpoint that it has forgotten',
  ),
  action(
    'merge-overlay',
    { target: text('Target of the disk'), overlay: text('Name of the overlay') },
    'An overlay of the run goes down into the image below it',
  ),
  action('delete-overlay', { path: text('Absolute path') }, 'An overlay of the run that is above no disk is deleted'),
  action(
    'delete-file',
    { disk: text('Disk id'), file: text('Name of the file in the folder of the disk') },
    'A file that belongs to no point is deleted',
  ),
  action('delete-folder', { disk: text('Disk id') }, 'The folder of a disk is removed if it is empty'),
  action('end-domain', { domain: text('UUID of the domain') }, 'A domain that the run had started paused is ended'),
  action('remove-journal', {}, 'The journal of the run, run.json, is removed'),
]);

export type RepairDocument = v.InferOutput<typeof repairSchema>;
