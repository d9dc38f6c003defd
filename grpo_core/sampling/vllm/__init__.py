"""vLLM as a sampling engine, in this process."""
