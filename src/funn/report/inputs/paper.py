"""What the paper reports (Tables 1 and 2, section 4.3), and where it is silent or wrong."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reported(NamedTuple):
    """One cell of a table.

    Attributes:
        success_rate: of the attack, 0 to 1; None where the paper gives none.
        noise_level: mean L2 norm over successes (Eq. 9); None where the paper gives none.
    """

    success_rate: float | None
    noise_level: float | None


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        title: the paper's name of the attack.
        attack: our configuration's name of it.
        steps: the number of iterations, for DeepFool.
        cells: by defence.
    """

    title: str
    attack: str
    steps: int | None
    cells: dict[str, Reported]


TABLE_1 = (
    Row(
        "DeepFool (iter=50, L2)",
        "deepfool_l2",
        50,
        {"classic": Reported(0.9441, 1.25), "funn": Reported(0.0054, 0.0075)},
    ),
    Row(
        "DeepFool (iter=50, Linf)",
        "deepfool_linf",
        50,
        {"classic": Reported(1.0, 1.81), "funn": Reported(0.0413, 1.13)},
    ),
    Row(
        "FGSM (eps=0.005)",
        "fgsm",
        None,
        {"classic": Reported(0.0041, 0.07), "funn": Reported(0.0161, 0.04)},
    ),
    Row(
        "Iterative (eps=0.005)",
        "bim",
        None,
        {"classic": Reported(0.0104, 0.08), "funn": Reported(0.0125, 0.04)},
    ),
    Row(
        "Single Pixel",
        "single_pixel",
        None,
        {"classic": Reported(0.0917, 1.0), "funn": Reported(0.0472, 1.0)},
    ),
    Row(
        "LocalSearch",
        "local_search",
        None,
        {"classic": Reported(0.4441, 5.22), "funn": Reported(0.2751, 9.71)},
    ),
)
# Section 4.3, of FUNN alone. The paper gives no figure for 1000 iterations in Linf.
ITERATIONS = (
    Row("DeepFool (iter=200, L2)", "deepfool_l2", 200, {"funn": Reported(0.0135, None)}),
    Row("DeepFool (iter=1000, L2)", "deepfool_l2", 1000, {"funn": Reported(0.1525, 0.73)}),
    Row("DeepFool (iter=200, Linf)", "deepfool_linf", 200, {"funn": Reported(0.8920, None)}),
)
# MagNet's figures are quoted from its paper, from attacks that did not know of MagNet and with
# detected images counted as defended; FUNN's are its white-box ones of Table 1.
TABLE_2 = (
    Row(
        "DeepFool (iter=50, Linf)",
        "deepfool_linf",
        50,
        {"magnet": Reported(0.006, None), "funn": Reported(0.0413, None)},
    ),
    Row(
        "FGSM (eps=0.005)",
        "fgsm",
        None,
        {"magnet": Reported(0.032, None), "funn": Reported(0.0161, None)},
    ),
    Row(
        "Iterative (eps=0.005)",
        "bim",
        None,
        {"magnet": Reported(0.048, None), "funn": Reported(0.0125, None)},
    ),
)
# Not in the paper: what shows a difference between defences.
STRONGER = (
    Row("PGD (eps=1, L2)", "pgd_l2", None, {}),
    Row("PGD (eps=0.1, Linf)", "pgd_linf", None, {}),
    Row("PGD, detector-aware (eps=1, L2)", "detector_aware_l2", None, {}),
    Row("PGD, detector-aware (eps=0.1, Linf)", "detector_aware_linf", None, {}),
)
# What an attack has in the rows above, beside its steps: a result belongs in a row by the settings
# that it was run with, whatever conf/attack says since. `push` is of the strict protocol alone.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "deepfool_l2": {"push": "distance"},
    "deepfool_linf": {"push": "distance"},
    "fgsm": {"eps": 0.005},
    "bim": {"eps": 0.005, "steps": 10, "alpha": None},
    "single_pixel": {"max_pixels": 1000},
    "local_search": {"r": 1.5, "p": 10.0, "d": 5, "t": 5, "R": 150},
    "pgd_l2": {"eps": 1.0, "steps": 40},
    "pgd_linf": {"eps": 0.1, "steps": 40},
    "detector_aware_l2": {"eps": 1.0, "steps": 40},
    "detector_aware_linf": {"eps": 0.1, "steps": 40},
}
# Where the paper is silent or wrong, and what was chosen.
CHOICES = (
    "Eq. 8 is printed with the sign that rewards the attacker for failing. Eq. 5 asks for an error "
    "of at least beta: the penalty here is gamma * max(beta - error, 0). defense=funn_printed "
    "keeps the printed one.",
    "The init phase cites Eq. 3, which could mean training the defender on attacked images. Here "
    "both auto-encoders restore clean images; objective=eq3_init is the other reading.",
    "The sizes of Figure 3 are not in the text: channels 16 and 32, 64 features, a uniform vector "
    "of 16, one attacker step and then one defender step a batch.",
    "beta and the losses are mean squared errors per pixel; noise levels are L2 norms. Section 4.3 "
    "compares the two: a noise level of 0.73 is an mse of 0.0007, fifteen times below beta.",
    "The paper says that an MNIST image is about 0.07 from a black one. That is the mse to the "
    "mean image (0.067), the most error that an uninformative image can force; to a black image "
    "it is 0.11.",
    "How images that are misclassified without an attack count is not said. Here only correctly "
    "classified images are attacked.",
    "In Table 2 MagNet's figures are of attacks that did not know of MagNet, with detected images "
    "counted as defended; FUNN's are white-box.",
    "FUNN's rows for FGSM and Iterative are printed in bold though the classic encoder does "
    "better there.",
)
