"""Archives around models, unpacked with containment and limits."""
