import { QmpBackupError } from '../errors.js';
import { asComponent, isComponent } from './names.js';

/** What the files of a restore are called in their folder: `--file-name`, in which `{vm}`, `{disk}` and `{point}` stand for names. */
export const DEFAULT_FILE_NAME = '{disk}';

export interface RestoredNames {
  /** With the format as its ending. */
  readonly image: (disk: string, format?: string) => string;
  /** The description of the machine. */
  readonly machine: string;
}

/** What the placeholders stand for; null where it has no name. */
export interface NameParts {
  readonly vm: string | null;
  readonly point: string | null;
}

/** @throws QmpBackupError `usage` for a template that gives no plain file name, or two disks the same */
export function restoredNames(
  parts: NameParts,
  disks: readonly string[],
  template: string = DEFAULT_FILE_NAME,
): RestoredNames {
  const nameOf = (disk: string): string => filled(template, { ...parts, disk });
  const names = disks.map(nameOf);
  const twin = names.findIndex((name, index) => names.indexOf(name) !== index);
  if (twin >= 0) {
    const first = disks[names.indexOf(names[twin] ?? '')];
    throw refused(template, `it gives ${first} and ${disks[twin]} the same name`, 'Put {disk} into it.');
  }
  const machine = template.includes('{disk}') ? nameOf('machine') : `${nameOf('')}-machine`;
  return { image: (disk, format = 'qcow2') => `${nameOf(disk)}.${format}`, machine: `${machine}.json` };
}

const PLACEHOLDER = /\{([^{}]*)\}/g;

/** With the longest ending that is appended, `.qcow2.partial.json.tmp`. */
const LONGEST = 255 - 24;

function filled(template: string, parts: NameParts & { readonly disk: string }): string {
  const name = template.replace(PLACEHOLDER, (placeholder, key: string) => {
    if (key !== 'vm' && key !== 'disk' && key !== 'point') {
      throw refused(template, `${placeholder} stands for nothing`, 'There are {vm}, {disk} and {point}.');
    }
    const part = parts[key];
    if (part !== null) return key === 'disk' ? part : asComponent(part);
    const lacking = key === 'vm' ? 'the VM of this backup has no name' : 'this backup has no numbered points';
    throw refused(template, lacking, `Write one in the place of ${placeholder}.`);
  });
  if (isComponent(name) && name.length <= LONGEST) return name;
  throw refused(
    template,
    `${JSON.stringify(name)} is no plain file name`,
    'Letters, digits and . _ + : @ = - only, not too many, and none of the last six at the beginning but _; --output names the folder.',
  );
}

function refused(template: string, why: string, hint: string): QmpBackupError {
  return new QmpBackupError('usage', `--file-name ${template}: ${why}`, { hint });
}
