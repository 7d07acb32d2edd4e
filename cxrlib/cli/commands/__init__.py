"""What each command does; main imports the module of the command that runs, and no other."""
