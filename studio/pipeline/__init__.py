"""Worker processes and their tasks: everything that parses bytes from outside or runs a framework.

messages   what goes in and comes out of a worker, as plain values
process    the engine's side: spawn, limit, listen, kill
variants   the engine's side: one variant, through two workers
worker     the child's entry point
sandbox    what a worker takes from itself before it reads a byte of the arrival
intake     task: an arrival becomes a checked reference graph
lab        tasks: make a variant and compare it; measure it
kit        what conversions are given to work with
"""
