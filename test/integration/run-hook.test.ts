import { expect, it } from 'vitest';
import { NO_HOOKS } from '../../src/config/hooks.js';
import { type HookEnd, runHook } from '../../src/run/hooks.js';

// What a hook is told may come from programs that say anything, at any length.

interface Ran {
  readonly end: HookEnd | null;
  readonly lines: readonly string[];
}

async function hook(command: string, why: string): Promise<Ran> {
  const lines: string[] = [];
  const end = await runHook({
    hook: 'after',
    hooks: { ...NO_HOOKS, after: command },
    facts: { config: '/c.yaml', vm: 'web1', target: '/b', result: 'failed', why },
    input: { steps: [] },
    signal: new AbortController().signal,
    onLine: (text) => lines.push(text),
  });
  return { end, lines };
}

it('is started whatever has failed, with the beginning in its environment and all of it on its stdin', async () => {
  const why = `a\0b ${'long '.repeat(100_000)}`;
  const { end, lines } = await hook(
    'echo "$QMPBACKUP_WHY" | head -c 9; echo; echo "$QMPBACKUP_WHY" | wc -c; wc -c',
    why,
  );
  expect(end).toEqual({ kind: 'done', exitCode: 0 });
  expect(lines[0]).toBe('a?b long');
  expect(Number(lines[1])).toBeLessThan(10_000);
  expect(Number(lines[2])).toBeGreaterThan(500_000);
});

it('is heard to the last line, of which those in the middle are left out', async () => {
  const { end, lines } = await hook('seq 3000; echo the last; exit 4', '');
  expect(lines).toHaveLength(1_001);
  expect(end).toEqual({ kind: 'failed', why: 'exit code 4: the last', exitCode: 4 });
});
