import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as v from 'valibot';
import { describe, expect, it } from 'vitest';
import { meaningOf, MIGRATING, RUN_STATES, type SeenState } from '../../../src/core/run-state.js';
import { schemaReply } from '../../../src/qmp/replies.js';

const enums = v.array(v.looseObject({ name: v.string(), values: v.optional(v.array(v.string())) }));

/** The values that `status` of a query's reply can have, as a QEMU of that version told. */
function statesOf(version: string, query: string): readonly string[] {
  const path = join(import.meta.dirname, '../../golden', `qmp-schema-${version}.json`);
  const text: unknown = JSON.parse(readFileSync(path, 'utf8'));
  const schema = v.parse(schemaReply, text);
  const find = (name: unknown) => schema.find((entry) => entry.name === name);
  const type = find(find(query)?.['ret-type'])?.members?.find(({ name }) => name === 'status')?.type;
  return v.parse(enums, text).find(({ name }) => name === type)?.values ?? [];
}

const seen = (more: Partial<SeenState>): SeenState => ({
  ...{ status: 'running', running: true, migration: null, inactive: false },
  ...more,
});

describe('what the state of a VM means for a backup', () => {
  it.each(['7.2.22', '10.0.2'])('has a row for every run state of QEMU %s, and no other', (version) => {
    expect(Object.keys(RUN_STATES).sort()).toEqual([...statesOf(version, 'query-status')].sort());
  });

  it.each(['7.2.22', '10.0.2'])('has a word for every state of a migration of QEMU %s', (version) => {
    const states = statesOf(version, 'query-migrate');
    expect(states).toContain('postcopy-active');
    for (const migration of states) {
      const { kind } = meaningOf(seen({ migration }));
      const isOver = ['none', 'completed', 'failed', 'cancelled'].includes(migration);
      expect([migration, kind]).toEqual([migration, isOver ? 'runs' : 'refused']);
      expect(Object.hasOwn(MIGRATING, migration)).toBe(!isOver);
    }
  });

  it.each(['inmigrate', 'postmigrate', 'finish-migrate', 'restore-vm', 'save-vm', 'colo'])(
    'refuses %s, and says what to do',
    (status) => {
      const meaning = meaningOf(seen({ status, running: false }));
      expect(meaning).toMatchObject({ kind: 'refused', todo: expect.stringMatching(/\.$/) as string });
    },
  );

  it('tells a VM that was handed over and stands still from one that was merely paused', () => {
    expect(meaningOf(seen({ status: 'paused', running: false })).kind).toBe('stands');
    expect(meaningOf(seen({ status: 'paused', running: false, inactive: true })).kind).toBe('refused');
    expect(meaningOf(seen({ status: 'prelaunch', running: false, inactive: true })).kind).toBe('refused');
  });

  it('goes on with a guest that came here, or that stayed because its migration failed', () => {
    for (const migration of ['completed', 'failed', 'cancelled'])
      expect(meaningOf(seen({ migration })).kind).toBe('runs');
  });

  it('refuses what it does not know, but for a guest that runs', () => {
    expect(meaningOf(seen({ status: 'dreaming' })).kind).toBe('runs');
    expect(meaningOf(seen({ status: 'dreaming', running: false })).kind).toBe('refused');
    expect(meaningOf(seen({ status: 'constructor', running: false })).kind).toBe('refused');
    expect(meaningOf(seen({ migration: 'teleporting' }))).toMatchObject({ kind: 'refused' });
  });
});
