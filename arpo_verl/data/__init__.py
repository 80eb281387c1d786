"""Public datasets as verl parquet, and checks of such files. Needs pyarrow and datasets, neither verl nor torch."""
