/** How `--json` was given. Its value only follows `=`, so that `--json list` is the command `list`. */
export const JSON_FORMS = ['document', 'lines'] as const;
export type JsonForm = (typeof JSON_FORMS)[number];

/** Arguments in which `--json` has its value, as commander wants it: it would take the next one for that. */
export function withJsonForm(args: readonly string[]): string[] {
  const end = endOfOptions(args);
  return args.map((arg, index) => (arg === '--json' && index < end ? '--json=document' : arg));
}

/** The same of arguments that may not have been understood; null where no JSON was asked for. */
export function jsonFormOf(args: readonly string[]): JsonForm | null {
  const given = withJsonForm(args).slice(0, endOfOptions(args));
  const forms = given.map((arg) => JSON_FORMS.find((form) => arg === `--json=${form}`));
  return forms.findLast((form) => form !== undefined) ?? null;
}

function endOfOptions(args: readonly string[]): number {
  const at = args.indexOf('--');
  return at < 0 ? args.length : at;
}
