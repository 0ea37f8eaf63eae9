"""Attacks behind the torchattacks interface, each in a file of its own."""

from funn.attacks.apgd import APGD
from funn.attacks.base import BatchedAttack
from funn.attacks.bim import BIM
from funn.attacks.ddn import DDN
from funn.attacks.deepfool import DeepFool
from funn.attacks.detector_aware import DetectorAware
from funn.attacks.fab import FAB
from funn.attacks.feature_pgd import FeaturePGD
from funn.attacks.fgsm import FGSM
from funn.attacks.fmn import FMN
from funn.attacks.gradient import Gradient
from funn.attacks.local_search import LocalSearch
from funn.attacks.pgd import PGD
from funn.attacks.result import AttackResult
from funn.attacks.sigma_zero import SigmaZero
from funn.attacks.single_pixel import SinglePixel
from funn.attacks.square import Square

__all__ = [
    "APGD",
    "BIM",
    "DDN",
    "FAB",
    "FGSM",
    "FMN",
    "PGD",
    "AttackResult",
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
