"""What is recognised only to say what it is, and what to do instead."""
