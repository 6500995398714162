"""ONNX files and what holds them: Triton model folders, `.ort`."""
