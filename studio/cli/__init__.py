"""The command line, a thin face over `studio.client`: stdout is data, stderr narration, exit codes a contract."""
