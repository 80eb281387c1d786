"""The rollout's edge to verl: agent loop manager and worker, agent loop, call syntax, tools."""
