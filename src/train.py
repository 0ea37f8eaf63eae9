"""Train a defence: `python src/train.py --help` lists the options."""

import hydra
from omegaconf import DictConfig

from funn.config.cli import job, run
from funn.config.compose import read_config, read_launch
from funn.config.schema import TrainConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Check the configuration, then train."""
    job(lambda: _train(cfg))


def _train(cfg: DictConfig) -> None:
    config, launch = read_config(cfg, TrainConfig), read_launch()
    # Only now: torch takes seconds to import, a mistake should not.
    from funn.training.train import train

    print(train(config, launch))


if __name__ == "__main__":
    run(main)
