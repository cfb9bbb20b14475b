"""What stands against a native loop."""

from __future__ import annotations


class NotNative(ValueError):
    """A loop that is left to Keras; the message is the reason, in the words of a report."""
