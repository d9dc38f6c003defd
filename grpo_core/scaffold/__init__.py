"""New plugin packages: `grpo plugins new`. The templates are the `.jinja` files beside this one."""
