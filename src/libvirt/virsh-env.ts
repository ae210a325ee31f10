/**
 * What virsh gets of our environment: in English, and without what has it tell of its own doings, which it prints between its
 * answers (`VIRSH_DEBUG`, 9.0).
 */
export function virshEnv(): NodeJS.ProcessEnv {
  return { ...process.env, LC_ALL: 'C', VIRSH_DEBUG: undefined, VIRSH_LOG_FILE: undefined };
}
