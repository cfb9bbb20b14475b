"""What `benchmarks/peers.py` and `benchmarks/fit.py` have in common: contestants, each in a process of its own.

remote     a contestant's process, seen from the program that races it;  serve: that process
inference  a trained model's answer: one class for each peer
training   an epoch of `fit`: one class for each peer
"""
