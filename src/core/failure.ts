/** Something could not be looked at, in the words of who refused. */

export interface Failure {
  readonly failed: string;
  readonly hint: string | null;
}

export function isFailure(value: object | string): value is Failure {
  return typeof value === 'object' && 'failed' in value;
}
