"""The record of a run as traces of OpenTelemetry: one a prompt, with spans for leaves, what they sampled, and calls."""
