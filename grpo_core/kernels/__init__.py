"""What a training step spends its time in, each with a backward pass of its own."""
