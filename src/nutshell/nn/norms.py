"""RMS normalisation without parameters, the only norm of the systems we implement."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # the field's name for it

# torch's default for fp32, written out: the default depends on the torch version and, by its documentation, on the
# input's dtype; bf16's 7.8e-3 would swamp embeddings that start at an RMS of 0.005.
RMS_EPS = 1.1920929e-07


def rms_norm(x: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
    """Divide by the root mean square of the last axis, in fp32, returned in the input's dtype."""
    return F.rms_norm(x, x.shape[-1:], eps=RMS_EPS)
