"""A loaded model as the scorer knows models: in windows, token by token, and learning from what has been scored."""
