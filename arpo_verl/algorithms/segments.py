"""Segment ids of trees that were grown elsewhere; see `arpo_verl.advantages.tree.segments`."""

from arpo_verl.advantages.tree.segments import segment_ids_from_forks, segment_ids_from_tokens

__all__ = ["segment_ids_from_forks", "segment_ids_from_tokens"]
