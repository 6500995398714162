"""The engine: the one process that owns a workspace. Wires the packages below it into something that runs."""
