"""Keras' loops, fit, evaluate and predict, without a framework in the way."""
