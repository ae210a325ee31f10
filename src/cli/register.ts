import type { Command } from 'commander';
import type { CommandContext } from './wiring.js';

/** What a command file adds to the program: its options and help, and what runs them. */
export type Register = (program: Command, run: Runner) => void;

/** Wraps a command's body: makes its context from the global options first. */
export type Runner = <Options>(
  body: (options: Options, context: CommandContext) => Promise<void>,
) => (options: Options, command: Command) => Promise<void>;
