"""Gradient clipping over the flat gradient buffer; nothing here waits for the device."""

from __future__ import annotations

from gpubackprop.backend import Array, Backend

BLOCK = 2**20  # elements: the squares of a large model's gradients are never all in memory


def norm(b: Backend, array: Array) -> Array:
    """The Euclidean norm of `array` (P,), 0-d."""
    xp = b.xp
    # Sums of blocks, then the sum of those: in float32 one running sum would lose the small ones.
    squares = [xp.sum(xp.square(array[low : low + BLOCK])) for low in range(0, len(array), BLOCK)]
    return xp.sqrt(xp.sum(xp.stack(squares))) if squares else xp.zeros((), array.dtype)


def clip_norm(b: Backend, grad: Array, max_norm: float) -> Array:
    """Scale `grad` (P,) in place so that its Euclidean norm is at most `max_norm`; the norm before that, 0-d.

    The factor is min(1, max_norm / (norm + 1e-6)), as in PyTorch's clip_grad_norm_ (Pascanu et al. 2013). A norm that
    is not finite makes the gradients so too: nothing is hidden.
    """
    length = norm(b, grad)
    grad *= b.xp.minimum(max_norm / (length + 1e-6), 1.0)
    return length


def clip_value(b: Backend, grad: Array, limit: float) -> None:
    """Bring every element of `grad` (P,) into [-limit, limit], in place, as PyTorch's clip_grad_value_."""
    b.xp.clip(grad, -limit, limit, out=grad)
