"""Search behind one tool: a local corpus, a retrieval server, or one of five web search engines."""

from arpo_tools.passage import Passage
from arpo_tools.search.backend import SearchBackend, SearchError
from arpo_tools.search.open import BACKENDS, open_search
from arpo_tools.search.tool import BackendSearch

__all__ = ["BACKENDS", "BackendSearch", "Passage", "SearchBackend", "SearchError", "open_search"]
