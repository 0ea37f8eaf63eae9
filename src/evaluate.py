"""Attack a trained classifier: `python src/evaluate.py --help` lists the options."""

import hydra
from omegaconf import DictConfig

from funn.config.cli import job, run
from funn.config.compose import read_config, read_launch, read_trials
from funn.config.schema import EvaluateConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Check the configuration, then attack."""
    job(lambda: _evaluate(cfg))


def _evaluate(cfg: DictConfig) -> None:
    config, trials, launch = read_config(cfg, EvaluateConfig), read_trials(cfg), read_launch()
    # Only now: torch takes seconds to import, a mistake should not.
    from funn.evaluation.evaluate import evaluate

    print(evaluate(config, trials, launch))


if __name__ == "__main__":
    run(main)
