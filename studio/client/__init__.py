"""Clients of an engine, and the public SDK.

    from studio.client import connect

    with connect() as studio:
        print(studio.status().models)
        studio.predict("digits:production", {"image": images})

Importing this costs neither numpy nor anything that opens models: they stay in the engine.
"""

from studio.client.client import Client, Resolution
from studio.client.connect import connect, default_workspace

__all__ = ["Client", "Resolution", "connect", "default_workspace"]
