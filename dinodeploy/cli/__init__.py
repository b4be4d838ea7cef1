"""The command line. A command is short: parse, one call, print."""
