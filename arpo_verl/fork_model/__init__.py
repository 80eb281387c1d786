"""A small model of fork points: what is known of one, and a regression on that which is refitted after each step."""
