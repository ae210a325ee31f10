/** The environment of a guard's process: options of ours for Node, as for a debugger's port, are not for it. */
export function guardEnvironment(
  ours: Readonly<Record<string, string | undefined>>,
): Readonly<Record<string, string | undefined>> {
  return { ...ours, NODE_OPTIONS: undefined };
}
