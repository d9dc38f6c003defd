"""Worker processes that judge completions, and are killed at their deadline."""
