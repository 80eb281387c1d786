"""A reward by which a process's first `good` answers are right, whatever they say, and all later ones wrong."""

CALLS = [0]


def compute_score(data_source, solution_str, ground_truth, extra_info=None, good=0, **_):
    CALLS[0] += 1
    return float(CALLS[0] <= int(good))
