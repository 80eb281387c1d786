"""HTTP for all tools: requests, retries, a client for JSON services, chat completions, and quotas of calls."""
