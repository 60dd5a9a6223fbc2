"""What a model does, looked at from outside: hand-written backward passes against numerical gradients."""
