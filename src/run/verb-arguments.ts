import type { Given } from '../config/config.js';
import type { Verb } from '../config/settings.js';
import { optionsFor, type Power, type Vm, type VerbValue } from '../config/vm.js';

/** The command line that asks a verb what the configuration says of a VM: what anybody can type to do the same by hand. */
export function verbArguments(
  vm: Vm,
  verb: Verb,
  {
    power,
    more = [],
    words = [],
  }: { readonly power?: Power; readonly more?: readonly string[]; readonly words?: readonly string[] } = {},
): readonly string[] {
  const options = optionsFor(vm, verb, power).flatMap(optionWords);
  const after = words.length > 0 ? ['--', ...words] : [];
  return [verb, ...options, ...more, ...after];
}

function optionWords({ rule, given }: VerbValue): readonly string[] {
  const { flag, fallback } = rule;
  // `--no-digest` is on unless it is said.
  if (typeof given === 'boolean') return given === (fallback === true) ? [] : [flag];
  return valuesIn(given).map((value) => `${flag}=${value}`);
}

function valuesIn(given: Exclude<Given, boolean>): readonly string[] {
  if (typeof given === 'string') return [given];
  if (Array.isArray(given)) return given as readonly string[];
  return Object.entries(given).map(([name, value]) => `${name}=${value}`);
}
