"""Source formats: one module each. `studio.formats.registry` finds them and tells arrivals apart by content.

Runs in workers: it parses bytes that nobody has vouched for.
"""
