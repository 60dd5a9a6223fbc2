"""Gradient clipping over the flat gradient buffer; neither function waits for the device."""

from __future__ import annotations

from gpubackprop.backend import Array, Backend

BLOCK = 2**20  # elements: the squares of a large model's gradients are never all in memory


def clip_norm(b: Backend, grad: Array, max_norm: float) -> Array:
    """Scale `grad` (P,) in place so that its Euclidean norm is at most `max_norm`; the norm before that, 0-d.

    The factor is min(1, max_norm / (norm + 1e-6)), as in PyTorch's clip_grad_norm_ (Pascanu et al. 2013). A norm that
    is not finite makes the gradients so too: nothing is hidden.
    """
    xp = b.xp
    # Sums of blocks, then the sum of those: in float32 one running sum would lose the small ones.
    squares = [xp.sum(xp.square(grad[low : low + BLOCK])) for low in range(0, len(grad), BLOCK)]
    norm = xp.sqrt(xp.sum(xp.stack(squares))) if squares else xp.zeros((), grad.dtype)
    grad *= xp.minimum(max_norm / (norm + 1e-6), 1.0)
    return norm


def clip_value(b: Backend, grad: Array, limit: float) -> None:
    """Bring every element of `grad` (P,) into [-limit, limit], in place, as PyTorch's clip_grad_value_."""
    b.xp.clip(grad, -limit, limit, out=grad)
