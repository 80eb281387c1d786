"""Checks before a run starts that its engines can pack rows."""

import logging

from omegaconf import DictConfig

from arpo_verl.integration.packing.mode import ENGINES, other_engines, packing_mode

logger = logging.getLogger(__name__)


def check_packing(config: DictConfig) -> None:
    """Say which engines compute rows although packing is asked for.

    What of a model or of a batch packing does not cover is seen where they are (`integration/packing/engine.py`).

    Raises:
        ValueError: `arpo.pack_trees=on` with an engine that can't, or with verl's older trainer, which does not ask.
    """
    mode = packing_mode(config)
    reasons = [f"{one} is none of the engines {' and '.join(ENGINES)}" for one in other_engines(config)]
    if not config.trainer.use_v1:
        reasons.append("trainer.use_v1=False chooses verl's older trainer")
    if mode == "off" or not reasons:
        return
    said = "; ".join(reasons)
    if mode == "on":
        raise ValueError(f"arpo.pack_trees=on, and trees can't be packed: {said}; expected auto or off: change it")
    logger.warning("trees are not packed: %s", said)
