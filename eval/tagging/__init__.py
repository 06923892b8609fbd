"""What eval.tag hears in recordings, window by window (hearing), and how it is written (formats)."""
