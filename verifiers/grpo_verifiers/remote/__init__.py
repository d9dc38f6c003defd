"""What verifiers that ask servers share: a background event loop, retries, and rate limits."""
