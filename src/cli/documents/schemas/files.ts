import * as v from 'valibot';
import {
  count,
  countOrNull,
  document,
  flag,
  listOf,
  number,
  numberOrNull,
  object,
  oneOf,
  text,
  textOrNull,
  texts,
  warnings,
} from './parts.js';

const volumeEntries = {
  disk: textOrNull('Disk id; null for a logical volume'),
  name: text('The number of the partition, `whole`, or /dev/vg/lv'),
  type: text('`ext`, `ntfs`, `vfat`, `xfs`, `btrfs`, `lvm`, `luks`, `swap`, `unknown`, or what libguestfs calls it'),
  size: countOrNull('Bytes; null where it was not measured'),
};

const placeEntries = {
  disk: textOrNull('The disk that it is on; null for a logical volume'),
  partition: text('The file system, as `--partition` takes it: a number, `whole`, or /dev/vg/lv'),
};

const fileSchema = object(
  {
    ...placeEntries,
    path: text('Absolute path in the file system of the guest'),
    kind: oneOf(['file', 'folder', 'link', 'other'], 'What it is'),
    size: count('Bytes'),
    mode: count('Permissions with setuid, setgid and sticky'),
    uid: count('Owner'),
    gid: count('Group'),
    mtime: number('When it was written, in seconds since 1970'),
  },
  'A file of the guest',
);

export const filesLsDocumentSchema = document(
  'files-ls',
  {
    target: text('Absolute path of the target'),
    point: text('The point, in words'),
    volumes: listOf(
      object(
        { ...volumeEntries, reader: textOrNull('Who reads it: `sleuthkit` or `guestfs`; null: nobody') },
        'What a disk holds',
      ),
      'File systems and the like, where no path was given',
    ),
    volume: v.nullable(object(volumeEntries, 'Where the path is; null where none was given')),
    files: listOf(fileSchema, 'What is in the folder, or the file itself'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup files ls`',
);

export const filesGetDocumentSchema = document(
  'files-get',
  {
    target: text('Absolute path of the target'),
    point: text('The point, in words'),
    output: text('Absolute path of the folder that they are in'),
    files: listOf(fileSchema, 'What was written'),
    leftOut: texts(
      'Paths of what was not written: neither file, folder nor link, of a name that no file here can have, or in another place, too',
    ),
    warnings: warnings(),
  },
  'The answer of `qmpbackup files get --output`',
);

export const filesFindDocumentSchema = document(
  'files-find',
  {
    target: text('Absolute path of the target'),
    points: texts('The points that were looked at, in words, oldest first'),
    found: listOf(
      object(
        {
          volume: text('Where it is, in words'),
          ...placeEntries,
          path: text('Absolute path in the file system of the guest'),
          states: listOf(
            object(
              {
                point: text('The point, in words'),
                state: oneOf(['first', 'new', 'changed', 'same', 'gone'], 'Against the point before that has the disk'),
                size: countOrNull('Bytes; null where it is gone'),
                mtime: numberOrNull('When it was written, in seconds since 1970'),
              },
              'The file in one point',
            ),
            'From the first point that has it on',
          ),
        },
        'A file with such a name',
      ),
      'Files with such a name',
    ),
    skipped: listOf(
      object(
        {
          point: text('The point, in words'),
          why: text('What is wrong with it'),
          damaged: flag('What was read of it is not what was backed up'),
        },
        'A point that could not be looked at',
      ),
      'Points that could not be looked at',
    ),
    leftOut: texts('Folders that were not looked into: a damaged file system has them in another place, too'),
    warnings: warnings(),
  },
  'The answer of `qmpbackup files find`',
);

export type FilesLsDocument = v.InferOutput<typeof filesLsDocumentSchema>;
export type FilesGetDocument = v.InferOutput<typeof filesGetDocumentSchema>;
export type FilesFindDocument = v.InferOutput<typeof filesFindDocumentSchema>;
