"""Comparisons and load tests through the real endpoint: requests, the process that sends them, and the verdict."""
