"""How long a step takes: candidates in processes of their own, measured in turn."""
