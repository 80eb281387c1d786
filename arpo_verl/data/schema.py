"""The one schema of every converted file, so that verl can concatenate any of them in `data.train_files`."""

import pyarrow as pa

SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        "ability": pa.string(),
        # All accepted answers. The style is never read by the reward function, but stock verl data has it.
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.list_(pa.string())}),
        # verl hands `extra_info` to the reward function, but not the column `ability`: it stands here as well.
        "extra_info": pa.struct(
            {
                "split": pa.string(),
                "index": pa.int64(),
                "id": pa.string(),
                "question": pa.string(),
                "ability": pa.string(),
                "level": pa.string(),
            }
        ),
    }
)

ROLES = ("system", "user", "assistant", "tool")
"""The roles of messages."""
