"""What rules are made of: scores, penalties, gates, numbers of roots, one kind a file, each chosen by its settings."""
