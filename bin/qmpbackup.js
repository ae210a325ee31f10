#!/usr/bin/env node
import { runShipped } from '../dist/bundle/shipped-program.js';

runShipped('main.cjs');
