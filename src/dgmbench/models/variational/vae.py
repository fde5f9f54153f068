"""Variational autoencoder with Gaussian latent variables and a Bernoulli decoder, on binary data.

    p(x, z) = N(z; 0, I) prod_i Bernoulli(x_i; sigmoid(l_i(z))),    q(z given x) = N(z; mu(x), diag(sd(x)^2))
    ELBO(x) = E_q[log p(x given z)] - KL(q(z given x) || N(0, I)) <= log p(x)

Encoder and decoder are tanh networks, mirror images of each other. With `samples_k` = 1 the ELBO is
maximised, its KL term in closed form and one reparametrised draw for the rest; with more, the
importance-weighted bound log mean_i p(x, z_i) / q(z_i given x).

References: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, equations 3 and 10; networks,
optimiser and schedule of Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", ICLR 2016,
section 5. Their code sums the gradient over a batch of 20 where this one takes the mean, so that their epsilon
of 1e-4 in Adam acts as 5e-6 does here.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from dgmbench.data.prepared import Dataset
from dgmbench.models import base
from dgmbench.models.base import LatentVariable, ModelSpec, Sampler
from dgmbench.training.session import Session

SMOKE = {"latent": 2, "hidden": [8], "epochs": 3, "batch_size": 50, "validate_every": 1}

# Decides nothing but which noise the validation bound is measured with: the same at every epoch, so that
# epochs are compared under common random numbers.
_VALIDATION_SEED = 20160502
_BURDA_STAGES = 8


class Spec(ModelSpec):
    latent: int = Field(50, ge=1, description="Gaussian latent variables.")
    hidden: list[int] = Field([200, 200], min_length=1, description="Units of the tanh layers, from x towards z.")
    epochs: int = Field(300, ge=1, description="Passes over the training data.")
    batch_size: int = Field(100, ge=1, description="Examples in a minibatch; the last, smaller one is left out.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step size, at first.")
    schedule: Literal["constant", "burda"] = Field(
        "burda",
        description="burda: eight stages, stage i taking 3^i / 3280 of all steps at learning_rate * 10^(-i/7), "
        "which is the published schedule where epochs = 3280.",
    )
    samples_k: int = Field(1, ge=1, description="Importance samples in the training objective; 1 is the ELBO.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="Adam's decay of the first moment.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="Adam's decay of the second moment.")
    adam_epsilon: float = Field(
        5e-6, gt=0, description="Adam's epsilon; 5e-6 on mean gradients is the published 1e-4 on sums over 20 examples."
    )
    validate_every: int = Field(5, ge=1, description="Epochs between two measurements of the validation bound.")
    validation_examples: int = Field(2000, ge=1, description="The bound is measured on the first so many examples.")
    validation_k: int = Field(10, ge=1, description="Importance samples of the validation bound.")


class Model(base.Model, LatentVariable, Sampler):
    """`parameters` maps `encoder.0.weight`, `encoder.0.bias`, ..., `decoder.2.bias` to (out, in) and (out,) tensors.

    The encoder's last layer gives mu and log sd side by side, the decoder's the logits l(z).
    """

    Spec = Spec
    accepts = frozenset({"binary"})

    @classmethod
    def operations(cls, spec: Spec, dimension: int) -> float:
        widths = [dimension, *spec.hidden, spec.latent]
        return 2.0 * sum(a * b for a, b in itertools.pairwise(widths))

    @classmethod
    def passes(cls, spec: Spec) -> float:
        return 3.0 * spec.epochs * spec.samples_k

    def __init__(self, spec: Spec, dimension: int):
        super().__init__(spec, dimension)
        self.widths = {
            "encoder": [dimension, *spec.hidden, 2 * spec.latent],
            "decoder": [spec.latent, *reversed(spec.hidden), dimension],
        }
        self.parameters: dict[str, Tensor] = {}
        for net, widths in self.widths.items():
            for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
                self.parameters[f"{net}.{i}.weight"] = torch.zeros(fan_out, fan_in)
                self.parameters[f"{net}.{i}.bias"] = torch.zeros(fan_out)

    def state(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.parameters.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.parameters = {name: state[name] for name in self.parameters}

    def fit(self, data: Dataset, session: Session) -> None:
        """Adam on the negative bound; the parameters with the best validation bound are kept.

        The history holds `bound` (nats, the training objective of each minibatch) and `validation_bound`.
        """
        spec, generator = self.spec, session.generator
        self._initialise(data, session)
        parameters = list(self.parameters.values())
        optimiser = torch.optim.Adam(
            parameters, betas=(spec.adam_beta1, spec.adam_beta2), eps=spec.adam_epsilon, fused=True
        )
        batch = min(spec.batch_size, len(data.train))
        batches = len(data.train) // batch
        order = torch.zeros(len(data.train), dtype=torch.int64, device=session.device)
        best = {f"best.{name}": value.clone() for name, value in self.state().items()}
        kept = {"order": order, "best_bound": -math.inf, **best}
        session.track(parameters=self.parameters, optimiser=optimiser, kept=kept)
        validation = self._validation_examples(data, session)

        total = spec.epochs * batches
        for step in session.steps(total):
            if step % batches == 0:
                order.copy_(torch.randperm(len(order), generator=generator, device=session.device))
            rows = order[(step % batches) * batch : (step % batches + 1) * batch]
            x = data.train.take(rows, generator).to(session.device)
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(spec, step, total)
            loss = -self.bound(x, generator).mean()
            session.record(bound=-loss.detach())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            epoch, left = divmod(step + 1, batches)
            if left == 0 and (epoch % spec.validate_every == 0 or epoch == spec.epochs):
                value = self._validation_bound(validation)
                session.record(validation_bound=value)
                if value > kept["best_bound"]:
                    kept["best_bound"] = value
                    for name, parameter in self.state().items():
                        kept[f"best.{name}"].copy_(parameter)
        self.parameters = {name: kept[f"best.{name}"] for name in self.parameters}

    def bound(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The training objective, one draw (or `samples_k`) for each example: (n, d) -> (n,), nats."""
        k = self.spec.samples_k
        if k > 1:
            return torch.logsumexp(self._log_weights(x, k, generator), 0) - math.log(k)
        mean, log_sd = self.encode(x)
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        divergence = 0.5 * (mean**2 + torch.exp(2 * log_sd) - 1).sum(1) - log_sd.sum(1)
        return self.log_prob_x_given_z(x, mean + torch.exp(log_sd) * noise) - divergence

    def log_weights(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        """log p(x, z) - log q(z given x) for k draws: (n, d) -> (k, n), nats, float32 as the parameters are."""
        with torch.no_grad():
            return self._log_weights(x.to(self.parameters["encoder.0.weight"]), k, generator)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n binary draws: z from N(0, I), then x from its Bernoulli distribution: (n, d)."""
        bias = self.parameters["decoder.0.bias"]
        z = torch.randn(n, self.spec.latent, generator=generator, dtype=bias.dtype, device=bias.device)
        with torch.no_grad():
            probability = torch.sigmoid(self.decode(z))
        uniform = torch.rand(probability.shape, generator=generator, dtype=bias.dtype, device=bias.device)
        return (uniform < probability).to(bias.dtype)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log sd of q(z given x): (n, d) -> (n, latent) twice."""
        return self._network("encoder", x).chunk(2, dim=-1)

    def decode(self, z: Tensor) -> Tensor:
        """Logits of p(x_i = 1 given z): (n, latent) -> (n, d)."""
        return self._network("decoder", z)

    def log_prob_x_given_z(self, x: Tensor, z: Tensor) -> Tensor:
        """sum_i x_i l_i - softplus(l_i) in nats: (n, d), (n, latent) -> (n,), or z of (k, n, latent) -> (k, n).

        With k draws the linear term is taken in the last hidden layer, x.(W u + b) = (x W).u + x.b: one pass
        over k n rows of that layer's width in place of one over k n rows of d.
        """
        if z.dim() == 2:
            logits = self.decode(z)
            return (x * logits - F.softplus(logits)).sum(-1)
        last = len(self.widths["decoder"]) - 2
        weight, bias = self.parameters[f"decoder.{last}.weight"], self.parameters[f"decoder.{last}.bias"]
        hidden = self._network("decoder", z, layers=last)
        normaliser = F.softplus(F.linear(hidden, weight, bias)).sum(-1)
        return (hidden * (x @ weight)).sum(-1) + x @ bias - normaliser

    def _log_weights(self, x: Tensor, k: int, generator: torch.Generator) -> Tensor:
        mean, log_sd = self.encode(x)
        noise = torch.randn((k, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)
        z = torch.addcmul(mean, noise, torch.exp(log_sd))
        # The two Gaussian normalisers, (2 pi)^(-latent/2) each, cancel.
        log_prior_ratio = 0.5 * (noise.square().sum(-1) - z.square().sum(-1)) + log_sd.sum(1)
        return self.log_prob_x_given_z(x, z) + log_prior_ratio

    def _network(self, net: str, u: Tensor, layers: int | None = None) -> Tensor:
        """The first `layers` layers of a network (all by default): tanh after each but the output layer."""
        last = len(self.widths[net]) - 2
        for i in range(last + 1 if layers is None else layers):
            u = F.linear(u, self.parameters[f"{net}.{i}.weight"], self.parameters[f"{net}.{i}.bias"])
            if i < last:
                u = _tanh(u)
        return u

    def _initialise(self, data: Dataset, session: Session) -> None:
        """Glorot's uniform weights (Glorot and Bengio 2010, equation 16); the output bias gives the pixels' means."""
        for name, value in self.parameters.items():
            if name.endswith("weight"):
                limit = math.sqrt(6 / sum(value.shape))
                uniform = torch.rand(value.shape, generator=session.generator, device=session.device)
                self.parameters[name] = (2 * uniform - 1) * limit
            else:
                self.parameters[name] = torch.zeros(value.shape, device=session.device)
        means = np.asarray(data.train.x).mean(axis=0, dtype=np.float64).clip(0.001, 0.999)
        output = f"decoder.{len(self.widths['decoder']) - 2}.bias"
        self.parameters[output] = torch.logit(torch.from_numpy(means)).to(session.device, torch.float32)
        for value in self.parameters.values():
            value.requires_grad_(True)

    def _validation_examples(self, data: Dataset, session: Session) -> Tensor:
        generator = torch.Generator(session.device).manual_seed(_VALIDATION_SEED)
        rows = slice(0, self.spec.validation_examples)
        return data.validation.take(rows, generator).to(session.device)

    def _validation_bound(self, x: Tensor) -> float:
        generator = torch.Generator(x.device).manual_seed(_VALIDATION_SEED)
        k = self.spec.validation_k
        parts = [self.log_weights(block, k, generator) for block in x.split(200)]
        return (torch.logsumexp(torch.cat(parts, 1).double(), 0) - math.log(k)).mean().item()


def learning_rate(spec: Spec, step: int, total: int) -> float:
    """Adam's step size at one of `total` steps."""
    if spec.schedule == "constant":
        return spec.learning_rate
    done = (step + 0.5) / total
    shares = itertools.accumulate(3**i / 3280 for i in range(_BURDA_STAGES))
    stage = next((i for i, end in enumerate(shares) if done < end), _BURDA_STAGES - 1)
    return spec.learning_rate * 10 ** (-stage / 7)


def _tanh(u: Tensor) -> Tensor:
    # The vectorised sigmoid takes a quarter of the time of torch.tanh; equal to 1e-7.
    return torch.tanh(u) if u.requires_grad else torch.sigmoid(2 * u).mul_(2).sub_(1)
