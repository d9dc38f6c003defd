"""What runs inside the sandbox: standard library only, loaded by path into its warm interpreter.

Only `codec` is used on both sides; the host never imports the others.
"""
