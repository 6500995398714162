"""`make bench-serve`: Studio's endpoint beside a raw ONNX Runtime loop and other model servers, in one run.

What counts is CPU time and the ratios inside one run: the rounds are interleaved (A B A B …), so that whatever else the
machine does meets all of them alike.
"""
