"""One module a protocol, with its `oip_*` like helpers. A new one is named in `studio.serving.app.PROTOCOLS`."""
