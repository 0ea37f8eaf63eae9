"""Attacks behind the torchattacks interface, each in a file of its own."""

from funn.attacks.base import BatchedAttack
from funn.attacks.deepfool import DeepFool
from funn.attacks.result import AttackResult

__all__ = ["AttackResult", "BatchedAttack", "DeepFool"]
