"""The parts of the page browser: addresses that models write, guarded fetches, and parsers in separate processes."""
