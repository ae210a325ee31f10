#!/usr/bin/env node
import module from 'node:module';
import { fileURLToPath, URL } from 'node:url';

// Node 22.8 and later keep what they have compiled. Beside the program, where only who may change the program may write.
module.enableCompileCache?.(fileURLToPath(new URL('../dist/compiled', import.meta.url)));
await import('../dist/bundle/main.js');
