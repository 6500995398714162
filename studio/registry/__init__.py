"""The index over the store, and the time series, in one DuckDB file that can be deleted at any time.

    registry     opening: migrations, repair, rebuilding from the store
    rebuild      bulk indexing
    versions     indexing and querying versions, variants, aliases
    changes      the operations that change store, journal and index together
    routes       the routing table of all that is servable
    series       what the server counted, second by second, rolled up as it ages
    comparisons  finished comparisons

All calls block and belong to one thread.
"""
