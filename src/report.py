"""Tables and the HTML page from everything under outputs/."""

import hydra
from omegaconf import DictConfig

from funn.config.cli import job, run
from funn.config.compose import read_config
from funn.config.schema import ReportConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="report")
def main(cfg: DictConfig) -> None:
    """Check the configuration, then report."""
    job(lambda: _report(cfg))


def _report(cfg: DictConfig) -> None:
    config = read_config(cfg, ReportConfig)
    # Only now: torch takes seconds to import, a mistake should not.
    from funn.report.report import report

    print(report(config))


if __name__ == "__main__":
    run(main)
