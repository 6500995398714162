"""`NAME.toml` beside a model: read, checked, written."""
