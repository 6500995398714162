"""PyTorch: `.pt2`, TorchScript, checkpoints, safetensors, whole modules."""
