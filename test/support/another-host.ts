import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { type CliResult, PROGRAM } from './cli.js';
import { checkedAnswer } from './json-answer.js';
import type { LibvirtLab } from './lab/libvirt.js';
import { patient } from './patience.js';

/** A host beside that of a libvirt lab: of another name, and with files of its own at the paths below `shared`. Needs root. */
export interface AnotherHost {
  /** The lab's libvirt, as if it were reached over ssh. */
  readonly farUri: string;
  /** A folder that the lab's host has. */
  readonly shared: string;
  /** What the other host has there. */
  readonly here: string;
  run(args: readonly string[], how?: HowHost): Promise<CliResult>;
}

export interface HowHost {
  readonly env?: Readonly<Record<string, string>>;
  /** It has the lab's name, too, and of its own the folder for temporary files, or nothing but what is `here`. */
  readonly sameName?: 'temporary' | 'images';
}

export async function anotherHost({ dir, uri }: LibvirtLab): Promise<AnotherHost> {
  const [shared, here, ssh] = [join(dir, 'shared'), join(dir, 'here'), join(dir, 'ssh')];
  await mkdir(shared);
  await mkdir(here);
  const socket = new URL(uri).searchParams.get('socket') ?? '';
  const pipe = `const s = require('net').connect(${JSON.stringify(socket)}); process.stdin.pipe(s); s.pipe(process.stdout);`;
  await writeFile(ssh, `#!/bin/sh\nexec '${process.execPath}' -e ${JSON.stringify(pipe)}\n`);
  await chmod(ssh, 0o700);
  return {
    farUri: `qemu+ssh://root@far.example/system?command=${ssh}&socket=${socket}&proxy=netcat`,
    shared,
    here,
    run: async (args, { env = {}, sameName } = {}) => {
      const own = { temporary: 'mount -t tmpfs qmplab /var/tmp', images: 'true' } as const;
      const name = sameName ? own[sameName] : 'hostname lab-other-host';
      const lines = `mount --make-rprivate / && mount --bind '${here}' '${shared}' && ${name} || exit 99; exec "$@"`;
      const words = ['--uts', '--mount', 'bash', '-c', lines, '-', process.execPath, PROGRAM, ...args];
      const result = await execa('unshare', words, {
        ...{ reject: false, timeout: patient(120_000), env: { NO_COLOR: '1', ...env } },
      });
      const { stdout, stderr } = result;
      return { exitCode: result.exitCode ?? -1, stdout, stderr, json: <T>() => checkedAnswer(stdout) as T };
    },
  };
}
