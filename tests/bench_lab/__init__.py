"""`make bench-lab`: every recipe on every kind of model, and the automatic choice against an exhaustive search."""
