"""The layers: Keras sub-layers, what they compute, and how it becomes a plan."""
