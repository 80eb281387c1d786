"""What each search engine is asked and how it answers, in the shapes of the real services."""

from dataclasses import dataclass
from typing import Any

from arpo_tools.search import Passage


@dataclass(frozen=True)
class Case:
    """An engine: its options, its key's variable, an answer with two results, and an answer with none."""

    name: str
    full: Any
    empty: Any
    variable: str | None = None
    options: tuple[tuple[str, str], ...] = ()


TWO = [
    Passage("The capital of France.", "Paris", "https://p.org/"),
    Passage("A city in Texas.", "Paris (Texas)", "https://t.org/"),
]


CASES = [
    Case(
        "serper",
        {
            "searchParameters": {"q": "paris", "gl": "us", "hl": "en", "num": 10, "type": "search"},
            "organic": [
                {"title": "Paris", "link": "https://p.org/", "snippet": "The capital of France.", "position": 1},
                {"title": "Paris (Texas)", "link": "https://t.org/", "snippet": "A city in Texas.", "position": 2},
            ],
            "credits": 1,
        },
        {"searchParameters": {"q": "paris"}, "organic": [], "credits": 1},
        "SERPER_API_KEY",
    ),
    Case(
        "tavily",
        {
            "query": "paris",
            "answer": None,
            "images": [],
            "results": [
                {"url": "https://p.org/", "title": "Paris", "content": "The capital of France.", "raw_content": None},
                {"url": "https://t.org/", "title": "Paris (Texas)", "content": "A city in Texas."},
            ],
            "response_time": 1.1,
        },
        {"query": "paris", "results": []},
        "TAVILY_API_KEY",
    ),
    Case(
        "brave",
        {
            "type": "search",
            "query": {"original": "paris", "more_results_available": True},
            "web": {
                "type": "search",
                "results": [
                    {
                        "title": "Paris",
                        "url": "https://p.org/",
                        "description": "The <strong>capital</strong> of France.",
                    },
                    {"title": "Paris (Texas)", "url": "https://t.org/", "description": "A city in Texas."},
                ],
            },
        },
        {"type": "search", "query": {"original": "paris"}},
        "BRAVE_API_KEY",
    ),
    Case(
        "brightdata",
        {
            "general": {"search_engine": "google", "results_cnt": 2},
            "organic": [
                {"link": "https://p.org/", "title": "Paris", "description": "The capital of France.", "rank": 1},
                {"link": "https://t.org/", "title": "Paris (Texas)", "description": "A city in Texas.", "rank": 2},
            ],
        },
        {"general": {"search_engine": "google", "results_cnt": 0}},
        "BRIGHTDATA_API_KEY",
        (("zone", "serp1"),),
    ),
    Case(
        "searxng",
        {
            "query": "paris",
            "number_of_results": 2,
            "results": [
                {"url": "https://p.org/", "title": "Paris", "content": "The capital of France.", "engine": "bing"},
                {"url": "https://t.org/", "title": "Paris (Texas)", "content": "A city in Texas.", "engine": "bing"},
            ],
            "unresponsive_engines": [],
        },
        {"query": "paris", "number_of_results": 0, "results": []},
    ),
    Case(
        "retrieval_server",
        {
            "result": [
                [
                    {"document": {"id": "7", "contents": '"Paris"\nThe capital of France.', "url": "https://p.org/"}},
                    {"document": {"id": "8", "contents": '"Paris (Texas)"\nA city in Texas.', "url": "https://t.org/"}},
                ]
            ]
        },
        {"result": [[]]},
    ),
]


REQUESTS = {
    "serper": ("POST", "/search", {}, {"q": "paris", "num": 10, "gl": "us", "hl": "en"}),
    "tavily": ("POST", "/search", {}, {"query": "paris", "max_results": 5, "search_depth": "basic"}),
    "brave": (
        "GET",
        "/res/v1/web/search",
        {"q": "paris", "count": "10", "country": "us", "search_lang": "en", "text_decorations": "false"},
        None,
    ),
    "brightdata": (
        "POST",
        "/request",
        {},
        {
            "zone": "serp1",
            "url": "https://www.google.com/search?q=paris&num=10&gl=us&hl=en&brd_json=1",
            "format": "raw",
        },
    ),
    "searxng": ("GET", "/search", {"q": "paris", "format": "json", "language": "en"}, None),
    "retrieval_server": ("POST", "/retrieve", {}, {"queries": ["paris"], "topk": 3, "return_scores": True}),
}
