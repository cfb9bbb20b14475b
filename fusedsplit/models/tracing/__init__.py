"""TensorFlow programs on symbolic rows: traced, simplified, and understood operation by operation."""
