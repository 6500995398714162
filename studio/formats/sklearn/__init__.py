"""scikit-learn estimators and pipelines, pickled or as skops."""
