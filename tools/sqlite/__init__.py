"""SQLite files that many processes share: opened safely, and asked by coroutines without blocking the event loop."""
