"""TensorFlow: SavedModel, frozen graphs, TensorFlow Lite; converted in an environment of their own."""
