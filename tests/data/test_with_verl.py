"""verl's own dataset class loads what a converter wrote."""

from dataset_files import CASES, write
from omegaconf import OmegaConf
from verl.utils.dataset.rl_dataset import RLHFDataset

from arpo_verl.data.catalog import DATASETS
from arpo_verl.data.convert import ConversionOptions, convert
from arpo_verl.data.prompts import system_prompt
from arpo_verl.data.source import open_source
from arpo_verl.reward import compute_score
from arpo_verl.tiny_world.model import make_tokenizer


def test_verl_loads_files_of_two_datasets_as_one_and_the_reward_takes_their_answers(tmp_path):
    paths = []
    for case in CASES:
        if case.name not in ("gsm8k", "musique"):
            continue
        source = write(tmp_path / f"{case.name}{case.suffix}", case.rows)
        paths.append(tmp_path / f"{case.name}.parquet")
        options = ConversionOptions(system_prompt("auto", ["python", "search"]), "test")
        convert(open_source(str(source), "test", None), DATASETS[case.name], paths[-1], options)
    config = OmegaConf.create(
        {"max_prompt_length": 2000, "filter_overlong_prompts": True, "filter_overlong_prompts_workers": 1}
    )
    data = RLHFDataset(
        [str(path) for path in paths], make_tokenizer(), OmegaConf.merge(config, {"cache_dir": str(tmp_path)})
    )
    assert len(data) == 5
    assert [row["data_source"] for row in data] == ["gsm8k"] * 3 + ["musique"] * 2
    row = data[3]
    assert [message["role"] for message in row["raw_prompt"]] == ["system", "user"]
    assert row["extra_info"]["ability"] == "qa"
    truth = row["reward_model"]["ground_truth"]
    response = "<answer>\\boxed{in 1960}</answer>"
    assert compute_score(row["data_source"], response, truth, row["extra_info"])["acc"] == 1
