"""The command line: flags, what each command does, several processes."""
