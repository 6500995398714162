"""The control API: HTTP and server-sent events on loopback, described by `/openapi.json`."""
