"""`python -m grpo_core` is the `grpo` command."""

from grpo_core.cli.main import main

if __name__ == "__main__":
    main()
