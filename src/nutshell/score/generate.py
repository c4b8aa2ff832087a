"""Write text with a model, one token at a time; the opposite direction of proving.

A full window slides on by half: its later half is read again as the start of a new one.
"""

import numpy as np
from jaxtyping import Int

from nutshell.errors import ArtifactError
from nutshell.score.predictor import Stepper


def generate(
    stepper: Stepper,
    prompt: Int[np.ndarray, " T"],
    *,
    bos_id: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Int[np.ndarray, " T"]:
    """Continue a document; return prompt and continuation, up to `max_tokens` new tokens or the document's end.

    Temperature 0 takes the likeliest token each time.

    Raises:
        ArtifactError: the model's values are not finite.
    """
    rng = np.random.default_rng(seed)
    tokens = [bos_id, *prompt.tolist()]
    stop = len(tokens) + max_tokens
    kept = max(stepper.context // 2, 1)
    # A prompt that fits is read whole; of a longer one, as much as leaves room to write.
    window_start = fed = 0 if len(tokens) < stepper.context else len(tokens) - kept
    stepper.begin(1)
    while len(tokens) < stop:
        if len(tokens) - window_start > stepper.context:
            window_start = fed = len(tokens) - kept
            stepper.begin(1)
        log_probs = stepper.feed(np.array([tokens[fed:]], dtype=np.int64))[0]
        if not np.isfinite(log_probs).all():
            raise ArtifactError(f"the model gives no probabilities at token {len(tokens)}: its values are not finite")
        fed = len(tokens)
        token = _draw(log_probs.astype(np.float64), temperature, rng)
        if token == bos_id:
            break
        tokens.append(token)
    return np.array(tokens[1:], dtype=np.int64)


def _draw(log_probs: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    if temperature == 0:
        return int(log_probs.argmax())
    scaled = (log_probs - log_probs.max()) / temperature
    weights = np.exp(scaled)
    return int(rng.choice(len(weights), p=weights / weights.sum()))
