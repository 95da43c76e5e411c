"""When a process that a test waits for is taken to hang."""

# Far above what any of them takes on a machine that does ten other things.
HANGS_S = 1800
