"""One module a command group; `COMMANDS` of each lists what it brings."""
