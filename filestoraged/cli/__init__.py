"""The command line: one module for each subcommand, and what several use to read options and to print."""
