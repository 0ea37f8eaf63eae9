"""Attacks behind the torchattacks interface, each in a file of its own."""

from funn.attacks.autoattack.apgd import APGD
from funn.attacks.autoattack.fab import FAB
from funn.attacks.autoattack.square import Square
from funn.attacks.autoattack.standard import AutoAttack
from funn.attacks.core.interface import BatchedAttack
from funn.attacks.core.result import AttackResult
from funn.attacks.fixed_budget.bim import BIM
from funn.attacks.fixed_budget.detector_aware import DetectorAware
from funn.attacks.fixed_budget.feature_pgd import FeaturePGD
from funn.attacks.fixed_budget.fgsm import FGSM
from funn.attacks.fixed_budget.gradient import Gradient
from funn.attacks.fixed_budget.pgd import PGD
from funn.attacks.minimum_norm.ddn import DDN
from funn.attacks.minimum_norm.deepfool import DeepFool
from funn.attacks.minimum_norm.fmn import FMN
from funn.attacks.minimum_norm.sigma_zero import SigmaZero
from funn.attacks.pixel.local_search import LocalSearch
from funn.attacks.pixel.single_pixel import SinglePixel

__all__ = [
    "APGD",
    "BIM",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "PGD",
    "AttackResult",
    "AutoAttack",
    "BatchedAttack",
    "DeepFool",
    "DetectorAware",
    "FeaturePGD",
    "Gradient",
    "LocalSearch",
    "SigmaZero",
    "SinglePixel",
    "Square",
]
