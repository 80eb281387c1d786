"""`python -m arpo_tools.retrieval_server`."""

from arpo_tools.retrieval_server.command import main

if __name__ == "__main__":
    raise SystemExit(main())
