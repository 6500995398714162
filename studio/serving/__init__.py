"""The inference server: ONNX Runtime sessions behind HTTP, fed with routing tables by whoever owns them.

It knows nothing of the registry. It imports `studio.core`, numpy and the HTTP stack only, so that the same code runs
as a child process of the engine, inside a replica of something larger, or in a container.
"""
