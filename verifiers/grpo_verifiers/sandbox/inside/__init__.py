"""What runs in the sandbox's own processes: standard library only, no import from outside.

The zygote is started as `python -S` with this folder's parent as its only addition to `sys.path`.
"""
