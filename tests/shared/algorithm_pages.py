"""What the pages of docs/algorithms say of their presets, derived from the presets' files.

python tests/shared/algorithm_pages.py    # writes it into the pages again; a test compares them
"""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from arpo_verl.presets import Preset, load_preset, preset_names

FOLDER = Path(__file__).parents[2] / "docs" / "algorithms"
INDEX = FOLDER / "README.md"
THEORY = FOLDER / "when_a_tree_helps.md"
LEAVES = "actor_rollout_ref.rollout.n"
ESTIMATOR = "algorithm.adv_estimator"
WITHOUT = {
    "settings": "It can't be run here: {0.unavailable}.",
    "needs": "What it would need beside the rest stands above.",
    "run": "`arpo.preset={0.name}` ends before anything starts, with the reason above.",
}
"""What a page says of a preset that can't be run."""
QUICKSTART_LEAVES = {"at2po": 16, "deep_grpo": 16}
"""Presets with more forks than the quickstart's 8 leaves have room for."""
WITHOUT_QUICKSTART = ("ghpo",)
"""Presets that need of the data what the quickstart's do not have: solutions."""
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
"""A part of a page that is derived: its name, between two comments."""


def pages() -> dict[str, Path]:
    """Return the page of each preset that has one."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.md")) if file not in (INDEX, THEORY)}


def with_derived(text: str, preset: Preset) -> str:
    """Return a page with its derived parts written anew."""
    parts = _parts(preset)
    return BLOCK.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", text)


def quickstart_overrides(preset: Preset) -> list[str]:
    """Return what a preset needs after `bash recipes/quickstart.sh`, which sets estimator and leaves itself."""
    settings = preset.settings
    own = [f"{key}={settings[key]}" for key in (ESTIMATOR, LEAVES) if settings.get(key, "arpo") != "arpo"]
    leaves = [f"{LEAVES}={QUICKSTART_LEAVES[preset.name]}"] if preset.name in QUICKSTART_LEAVES else []
    return [f"arpo.preset={preset.name}", *own, *leaves, *preset.asks]


def _parts(preset: Preset) -> Mapping[str, str]:
    if preset.unavailable:
        return {name: text.format(preset) for name, text in WITHOUT.items()}
    settings = yaml.safe_dump(dict(preset.settings), sort_keys=False, width=110, allow_unicode=True)
    estimator = preset.settings.get(ESTIMATOR, "arpo")
    quickstart = f"bash recipes/quickstart.sh {' '.join(quickstart_overrides(preset))}"
    run = [
        *([] if preset.name in WITHOUT_QUICKSTART else [quickstart]),
        " ".join(
            [
                "python -m verl.trainer.main_ppo",
                f"{ESTIMATOR}={estimator} +arpo.preset={preset.name}",
                *preset.asks,
                "...",
            ]
        ),
    ]
    return {
        "settings": f"```yaml\n{settings}```",
        "needs": f"| needs | costs |\n|---|---|\n| {preset.needs} | {preset.costs} |",
        "run": "\n".join(["```bash", *run, "```"]),
    }


if __name__ == "__main__":
    for name, file in pages().items():
        if name in preset_names():
            file.write_text(with_derived(file.read_text(), load_preset(name)))
        else:
            print(f"{file.name}: there is no such preset")
