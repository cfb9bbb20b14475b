"""Whole Keras models: their graphs read, cut into regions, and run as plans."""
