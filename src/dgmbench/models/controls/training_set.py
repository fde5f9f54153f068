"""The training set itself as a sampler: what a perfect memory would score under a Parzen window.

    p(x) = (1/m) sum_j delta(x - x_j),  x_1 ... x_m stored training examples

Reference: Theis, van den Oord and Bethge, "A note on the evaluation of generative models", ICLR 2016, section 3.2 and
table 1; Sohl-Dickstein, Weiss, Maheswaranathan and Ganguli, "Deep unsupervised learning using nonequilibrium
thermodynamics", ICML 2015, table 2 ("perfect model").
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models import base
from dgmbench.training.session import Session

SMOKE: dict = {"examples": 40}

_DEFAULT_EXAMPLES = 10_000


class Spec(base.ModelSpec):
    examples: int | None = Field(
        None, ge=1, description="How many training examples are stored; null for all of them, up to 10,000."
    )


class Model(base.Model, base.Sampler):
    Spec = Spec
    accepts = frozenset({"binary", "unit", "real"})

    def fit(self, data: Dataset, session: Session) -> None:
        """Store a random subset; a split that is binarized at each draw is drawn once."""
        count = min(self.spec.examples or _DEFAULT_EXAMPLES, len(data.train))
        order = torch.randperm(len(data.train), generator=session.generator, device=session.device)
        self._examples = data.train.take(order[:count].sort().values, session.generator).to(session.device)

    def state(self) -> dict[str, Tensor]:
        return {"examples": self._examples}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._examples = state["examples"]

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Each stored example as often as any other, and the remainder without replacement: (n, d)."""
        stored = len(self._examples)
        # Whole copies first: which ones are missing or doubled would be noise in a control.
        copies = torch.arange(n // stored * stored, device=generator.device) % stored
        rest = torch.randperm(stored, generator=generator, device=generator.device)[: n % stored]
        order = torch.randperm(n, generator=generator, device=generator.device)
        return self._examples[torch.cat([copies, rest])[order]]
