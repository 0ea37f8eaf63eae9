"""FUNN: Flexible Unsupervised Neural Network, reproduced and evaluated."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from funn.loading import load_classifier, load_encoder

__all__ = ["load_classifier", "load_encoder"]


def __getattr__(name: str) -> Any:
    # Lazily: the commands check their configuration before torch is imported.
    if name in __all__:
        from funn import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'funn' has no attribute {name!r}")
