"""What eval.tag hears in recordings, window by window, and the formats of its results."""
