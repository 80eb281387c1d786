"""One source of replay a file: a subclass of `ReplaySource` that chooses rows of elsewhere for a step to train on.

`arpo_verl/replay/<name>.py` has the class `<Name>`, and `arpo.replay=<name>` chooses it; nothing else has to know of
it. `arpo.replay=my_package.module.MySource` chooses one that lies elsewhere. What is done with its answers in verl is
in `arpo_verl.integration.training.replay_trainer`.
"""

from collections.abc import Mapping
from typing import Any

from arpo_verl.named_parts import REPLAY, parameters_of, require_accepted
from arpo_verl.replay.store.group import Group, GroupLeaf
from arpo_verl.replay.store.row import StoredRow
from arpo_verl.replay.store.source import ReplayContext, ReplaySource, State, Use

__all__ = ["Group", "GroupLeaf", "ReplayContext", "ReplaySource", "State", "StoredRow", "Use", "build_source"]


def build_source(name: str, settings: Mapping[str, Any], context: ReplayContext) -> ReplaySource:
    """Return the source that `arpo.replay` names, made of `arpo.replay_kwargs`.

    Raises:
        ValueError: there is no such source, or it can't be made of these settings.
    """
    kind = REPLAY.find(name, "arpo.replay")
    if not issubclass(kind, ReplaySource):  # type: ignore[arg-type]  # `find` has seen that it is a class
        raise ValueError(
            f"arpo.replay={name!r} is {kind!r}; expected a subclass of arpo_verl.replay.ReplaySource: correct it"
        )
    parameters = parameters_of(kind, "arpo.replay")
    first = next(iter(parameters), "context")
    require_accepted(settings, parameters, {first}, "arpo.replay_kwargs")
    missing = [
        name
        for name, one in parameters.items()
        if name != first and one.default is one.empty and name not in settings and one.kind is one.KEYWORD_ONLY
    ]
    if missing:
        raise ValueError(
            f"arpo.replay={name} needs the settings {missing}; expected them in arpo.replay_kwargs: add them"
        )
    source: ReplaySource = kind(context, **settings)
    return source
