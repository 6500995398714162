"""The inbox: which files belong together, when they have settled, what is in them. Nothing in it is ever changed."""
