"""Parts of eval.tag: results of recordings, window by window, and the formats that they have."""
