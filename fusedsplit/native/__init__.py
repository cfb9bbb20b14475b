"""The native libraries; nothing in this room imports TensorFlow."""
