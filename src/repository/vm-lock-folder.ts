import { constants } from 'node:fs';
import { access, mkdir, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { QmpBackupError } from '../errors.js';
import { codeOf, currentUser } from '../host/file-errors.js';

/** Where the locks of VMs are: one folder for all users of a host where that is possible, else one of this user. */

interface Candidate {
  readonly path: string;
  readonly mode: number;
  /** Anybody may have made it before us. */
  readonly shared: boolean;
}

/** Everybody's, as /tmp: a run of root and one of the VM's user must find each other. */
const SHARED_MODE = 0o1777;

function candidates(): readonly Candidate[] {
  const runtime = process.env['XDG_RUNTIME_DIR'];
  const own = { mode: 0o700, shared: false };
  return [
    { path: '/run/lock/qmpbackup', mode: SHARED_MODE, shared: true },
    ...(runtime !== undefined && isAbsolute(runtime) ? [{ path: join(runtime, 'qmpbackup'), ...own }] : []),
    { path: join(tmpdir(), `qmpbackup-${process.getuid?.() ?? 'all'}`), ...own },
  ];
}

/**
 * The first of the folders that exists or can be made, and that this user may write to.
 *
 * @throws QmpBackupError `failed` when there is none, naming the reason for each
 */
export async function vmLockFolder(folders: readonly Candidate[] = candidates()): Promise<string> {
  const reasons: string[] = [];
  for (const folder of folders) {
    const reason = await whyUnusable(folder);
    if (reason === undefined) return folder.path;
    reasons.push(`${folder.path}: ${reason}`);
  }
  throw new QmpBackupError('failed', `there is no folder for the locks of VMs: ${reasons.join('; ')}`, {
    hint: `Make /run/lock writable, or set XDG_RUNTIME_DIR to a folder that ${currentUser()} may write to.`,
  });
}

async function whyUnusable({ path, mode, shared }: Candidate): Promise<string | undefined> {
  try {
    await mkdir(path, { mode }).catch((error: unknown) => {
      if (codeOf(error) !== 'EEXIST') throw error;
    });
    const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
    try {
      const uid = process.getuid?.();
      const stats = await handle.stat();
      if (!shared && stats.uid !== uid) return `it belongs to uid ${stats.uid}`;
      // The owner of a sticky folder may delete what is in it, so root takes it over from whoever was first.
      if (uid === 0 && stats.uid !== 0) await handle.chown(0, 0);
      // The mode given to mkdir is cut by the umask.
      if ((uid === 0 || stats.uid === uid) && (stats.mode & 0o7777) !== mode) await handle.chmod(mode);
      else if (shared && (stats.mode & 0o7777) !== mode) return `its mode is not ${SHARED_MODE.toString(8)}`;
    } finally {
      await handle.close();
    }
    // The folder may be there and its file system be read-only, as in a hardened systemd unit.
    await access(path, constants.W_OK | constants.X_OK);
    return undefined;
  } catch (error) {
    const code = codeOf(error);
    if (code === undefined) throw error;
    return code;
  }
}
