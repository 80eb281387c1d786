"""Records of the leaves of trees that are given as rows of segment ids, as the worker writes them."""

from collections.abc import Mapping, Sequence

from arpo_verl.rollout.leaf_record import LeafRecord, SegmentRecord, ToolCallRecord
from arpo_verl.rollout.tree import Decision


def records_of(
    ids: Sequence[Sequence[int]],
    mask: Sequence[Sequence[int]],
    excluded: Sequence[int] = (),
    decisions: Mapping[int, Sequence[Decision]] | None = None,
) -> list[LeafRecord]:
    """Return a record for each row; each tool result is that of one call.

    Args:
        ids: segment of each token, -1 for padding.
        mask: 1 for sampled tokens.
        excluded: rows that are left out.
        decisions: of rows at their own fork points, by row.
    """
    records = []
    for row, (of_row, sampled) in enumerate(zip(ids, mask, strict=True)):
        segments: list[SegmentRecord] = []
        for segment, is_sampled in zip(of_row, sampled, strict=True):
            if segment < 0:
                break
            if segments and segments[-1].id == segment:
                segments[-1] = SegmentRecord(segment, segments[-1].tokens + 1, bool(is_sampled))
            else:
                segments.append(SegmentRecord(segment, 1, bool(is_sampled)))
        records.append(
            LeafRecord(
                leaves=len(ids),
                number=row,
                parent=None,
                path=str(row),
                fork_token=None,
                is_top_up=False,
                stop_reason="completed",
                is_result_cut=False,
                is_excluded=row in excluded,
                segments=segments,
                calls=[ToolCallRecord(one.id, "search", "ok", 0.1, 0) for one in segments if not one.is_sampled],
                entropy_initial=None,
                decisions=list((decisions or {}).get(row, ())),
                weight_versions=None,
                requested_tokens=0,
                cached_tokens=0,
            )
        )
    return records
