"""Attacks behind the torchattacks interface, each in a file of its own."""

from funn.attacks.base import BatchedAttack
from funn.attacks.bim import BIM
from funn.attacks.deepfool import DeepFool
from funn.attacks.fgsm import FGSM
from funn.attacks.gradient import Gradient
from funn.attacks.result import AttackResult

__all__ = [
    "BIM",
    "FGSM",
    "AttackResult",
    "BatchedAttack",
    "DeepFool",
    "Gradient",
]
