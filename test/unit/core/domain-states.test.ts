import { describe, expect, it } from 'vitest';
import { meaningOfDomain } from '../../../src/core/domain-states.js';

describe('what the state of a domain means for a backup', () => {
  it.each([
    ['running', 'booted', 'runs'],
    ['running', 'migrated', 'runs'],
    ['running', 'migration canceled', 'runs'],
    ['running', 'post-copy', 'refused'],
    ['running', 'post-copy failed', 'refused'],
    ['idle', '', 'runs'],
    ['in shutdown', 'user', 'runs'],
    ['paused', 'user', 'stands'],
    ['paused', 'I/O error', 'stands'],
    ['paused', 'watchdog', 'stands'],
    ['paused', 'from snapshot', 'stands'],
    ['paused', 'crashed', 'stands'],
    ['paused', 'migrating', 'refused'],
    ['paused', 'post-copy', 'refused'],
    ['paused', 'saving', 'refused'],
    ['paused', 'dumping', 'refused'],
    ['paused', 'creating snapshot', 'refused'],
    ['paused', 'starting up', 'refused'],
    ['paused', 'shutting down', 'refused'],
    ['crashed', 'panicked', 'stands'],
    ['pmsuspended', '', 'stands'],
    ['shut off', 'shutdown', 'off'],
    ['shut off', 'destroyed', 'off'],
    ['shut off', 'crashed', 'off'],
    ['shut off', 'saved', 'off'],
    ['shut off', 'failed', 'off'],
    ['shut off', 'from snapshot', 'off'],
    ['shut off', 'daemon', 'off'],
    ['shut off', 'unknown', 'off'],
    ['shut off', 'migrated', 'refused'],
    ['no state', '', 'refused'],
    ['elsewhere', 'constructor', 'refused'],
    ['paused', 'constructor', 'stands'],
  ])('%s (%s): %s', (state, reason, kind) => {
    expect(meaningOfDomain(state, reason, { connect: null, name: 'vm' }).kind).toBe(kind);
  });

  it('says by which command to see a state that nobody knows, of the libvirt that was asked', () => {
    for (const state of ['no state', 'elsewhere']) {
      expect(meaningOfDomain(state, '', { connect: 'qemu:///session', name: 'my vm' })).toMatchObject({
        todo: "See: virsh --connect qemu:///session domstate --reason 'my vm'",
      });
    }
  });
});
