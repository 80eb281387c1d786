"""Search behind one tool: a local corpus, a retrieval server, or one of five web search engines."""

from arpo_tools.search.open import BACKENDS, open_search
from arpo_tools.search.passage import Backend, Passage, SearchError
from arpo_tools.search.tool import SearchTool

__all__ = ["BACKENDS", "Backend", "Passage", "SearchError", "SearchTool", "open_search"]
