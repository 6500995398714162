"""The endpoint over gRPC, on a port of its own: Open Inference Protocol v2 as Triton extends it, and health."""
