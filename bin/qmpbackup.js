#!/usr/bin/env node
const { runShipped } = require('../dist/bundle/shipped-program.cjs');

runShipped('main.cjs');
