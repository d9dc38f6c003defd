"""`grpo doctor`: does everything that a run rests on work on this machine, with this model?

Each file looks at one thing and yields findings; `diagnose.py` puts them in order. Nothing here is
needed for training.
"""
