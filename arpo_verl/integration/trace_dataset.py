"""Former address of the dataset of traces, which users' scripts may name; the present one is in the message."""

import logging

from arpo_verl.integration.training.trace_dataset import NativeTraceDataset, TagTraceDataset

__all__ = ["NativeTraceDataset", "TagTraceDataset"]

logging.getLogger(__name__).warning(
    "data.custom_cls.path names %s, a former address; expected pkg://arpo_verl.integration.training.trace_dataset: "
    "change it there",
    __name__,
)
