/** Version of all documents: counted up where a field goes, is renamed, or means something else. See docs/json.md. */
export const JSON_SCHEMA = 1;

/** How each document of a command that answered begins. */
export function envelope<const Command extends string>(
  command: Command,
): { readonly schema: typeof JSON_SCHEMA; readonly command: Command } {
  return { schema: JSON_SCHEMA, command };
}
