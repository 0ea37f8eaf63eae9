"""What a suite may hold, and what it holds unless its conf/suite/NAME.yaml says otherwise.

Checked once, as it is read; a key that is not here is refused.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from funn.errors import at_least, require

Node = dict[str, Any]
PROTOCOLS = ("foolbox1", "strict")
NORMS = ("l2", "linf")


@dataclass
class CascadeConfig:
    """What `suite=strong` attacks with in one norm, where its other attacks found nothing.

    Attributes:
        radii: the values of eps.
        attacks: by name, each to meet what those before it have left.
        transferred: by name, those that are shown what fools the classifier of `suite.transfer`.
    """

    radii: list[float] = MISSING
    attacks: dict[str, Node] = field(default_factory=dict)
    transferred: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for eps in self.radii:
            at_least("suite.cascade radii", eps, 0)


@dataclass
class MaskingConfig:
    """The checks for hidden gradients.

    Attributes:
        controls: whether the masked controls, which must be flagged, are examined too.
    """

    controls: bool = MISSING


@dataclass
class FeaturesConfig:
    """Uses of the features other than the head.

    Attributes:
        norm: of the attacker's ball, "l2" or "linf".
        eps: its radius.
        steps: of the attacker.
        neighbours: how many of the gallery are looked at.
    """

    norm: str = MISSING
    eps: float = MISSING
    steps: int = MISSING
    neighbours: int = MISSING

    def __post_init__(self) -> None:
        require(self.norm in NORMS, f"suite.features.norm={self.norm} must be l2 or linf")
        at_least("suite.features.eps", self.eps, 0)
        at_least("suite.features.steps", self.steps, 1)
        at_least("suite.features.neighbours", self.neighbours, 1)


@dataclass
class Suite:
    """What `suite=NAME` measures of a classifier: conf/suite/NAME.yaml says what differs from here.

    Attributes:
        attacks: by name, each on its own.
        protocols: under which of `PROTOCOLS` each is run, if it depends on them.
        iterations: numbers of steps at which the figures of DeepFool are given too.
        images: the first so many are attacked; None leaves it to each attack. See
            `funn.evaluation.how_many_images`.
        transfer: a run folder: adversarial images of its classifier are tried on this one.
        cascade: by norm, "l2" or "linf", attacks on what `attacks` have left; see
            `funn.evaluation.robust_accuracy`. Empty for none.
        masking: the checks for hidden gradients; None for none.
        features: uses of the features; None for none.
    """

    attacks: dict[str, Node] = field(default_factory=dict)
    protocols: list[str] = field(default_factory=lambda: ["strict"])
    iterations: list[int] = field(default_factory=list)
    images: int | None = 1000
    transfer: str | None = None
    cascade: dict[str, CascadeConfig] = field(default_factory=dict)
    masking: MaskingConfig | None = None
    features: FeaturesConfig | None = None

    def __post_init__(self) -> None:
        require(bool(self.protocols), f"suite.protocols is empty: give {', '.join(PROTOCOLS)}")
        for protocol in self.protocols:
            known_protocol("suite.protocols", protocol)
        for count in self.iterations:
            at_least("suite.iterations", count, 1)
        if self.images is not None:
            at_least("suite.images", self.images, 1)
        for norm, part in self.cascade.items():
            require(norm in NORMS, f"suite.cascade.{norm}: must be of {' or '.join(NORMS)}")
            missing = f"suite.cascade.{norm}: radii are missing, such as [0.5, 1.0]"
            require(bool(part.radii), missing)
        require(
            self.transfer is None or bool(self.cascade) or self.masking is not None,
            f"suite.transfer={self.transfer} is of no use to this suite: take suite=strong or "
            "suite=masking",
        )

    @property
    def examines_the_classifier(self) -> bool:
        """Whether it looks at the classifier itself, which an oblivious attacker never sees."""
        return bool(self.cascade) or self.masking is not None or self.features is not None


def known_protocol(key: str, protocol: str) -> None:
    """Require one of `PROTOCOLS`; the key says what it was given as."""
    known = ", ".join(PROTOCOLS)
    require(protocol in PROTOCOLS, f"{key}={protocol} must be one of {known}")
