"""Errors a user can cause; each message says where, what, and what to do.

The command line prints the message as one line and exits with status 1; a traceback means a bug in nutshell.
What only a programmer can get wrong is an `assert`, not one of these.
"""


class NutshellError(ValueError):
    """Base of everything that bad input, a bad budget or a bad file can raise."""


class UsageError(NutshellError):
    """Options of a verb that do not go together, or of which one is missing; the command exits with status 2."""


class RecipeError(NutshellError):
    """A recipe that does not decode, or whose settings cannot go together."""


class DataError(NutshellError):
    """Text, shards, manifest or tokenizer that are missing, damaged or do not belong together."""


class RunError(NutshellError):
    """A run directory or checkpoint that cannot be used as asked, or a training that went wrong."""


class BudgetError(NutshellError):
    """A budget (bytes, seconds, steps) that nothing can meet."""


class ArtifactError(NutshellError):
    """An artifact that is truncated, altered, or of an unknown version."""


class LegalityError(NutshellError):
    """A score that broke its own rules: a target graded twice or never, bytes that do not add up."""


class ProofError(NutshellError):
    """A proof that does not decode to the text, or whose length contradicts the claimed score."""


class PredictorError(NutshellError):
    """A predictor that is another program does not keep to the protocol."""


class UndecidedError(NutshellError):
    """An audit that can neither pass nor fail what it was given."""


class ArchiveError(NutshellError):
    """A compressed file that is damaged, or that this artifact and machine cannot decode."""
