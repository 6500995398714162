"""The terminal face of Studio: five screens over one engine, driven by one table of actions."""
