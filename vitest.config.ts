import { defineConfig } from 'vitest/config';
import { patient } from './test/support/patience.js';

// Which QEMU, also where a test starts one itself.
const setupFiles = ['test/support/lab/chosen-qemu.ts'];
// Suites by intent: unit has no socket, process or clock; the others run real peers and so need more time. Three files
// at a time keep two cores busy: most tests also wait.
const peers = {
  ...{ setupFiles, maxWorkers: 3, sequence: { groupOrder: 1 } },
  // For whoever starts a program first; a second, as vitest has it, is over while Node starts on a busy machine.
  expect: { poll: { timeout: patient(10_000) } },
};
const slow = { ...peers, testTimeout: patient(300_000), hookTimeout: patient(180_000) };

export default defineConfig({
  test: {
    projects: [
      // What has no state of its own needs no process of its own: twice as fast.
      { test: { name: 'unit', include: ['test/unit/**/*.test.ts'], testTimeout: patient(5_000), isolate: false } },
      { test: { name: 'contract', include: ['test/contract/**/*.test.ts'], ...peers, testTimeout: patient(30_000) } },
      { test: { name: 'integration', include: ['test/integration/**/*.test.ts'], ...slow } },
      { test: { name: 'e2e', include: ['test/e2e/**/*.test.ts'], ...slow } },
      // What is judged by time needs a machine to itself: npm run test:load.
      {
        test: {
          name: 'load',
          include: ['test/load/**/*.test.ts'],
          ...slow,
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
