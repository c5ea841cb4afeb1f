"""Privacy loss distributions by dp-accounting: the tight figure for people; budgets are enforced in `privacy.rdp`.

The figure is tighter than Rényi's, but holds only for a composition that was fixed beforehand: mechanisms chosen after
earlier results had been seen add up in Rényi costs and not in these.

References:
    Doroshenko et al. Connect the Dots: Tighter Discrete Approximations of Privacy Loss Distributions. PoPETs 2022.
    Gopi, Lee, Wutschitz. Numerical Composition of Differential Privacy. arXiv:2106.02848: the estimate by a central
    limit (GDP) lies below the truth, so it is never used here.
"""

from collections.abc import Sequence

from wardround.errors import ConfigError
from wardround.privacy.mechanisms import Gaussian, Laplace, Mechanism, SampledGaussian, check

__all__ = ["tight_delta", "tight_epsilon"]


def tight_epsilon(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """The least epsilon of all the mechanisms together, for neighbours as in `privacy.mechanisms`.

    Raises:
        CodecError: A mechanism cannot be.
        ConfigError: dp-accounting is not installed.
        ValueError: `delta` does not lie above 0 and below 1.
    """
    if not 0 < delta < 1:
        raise ValueError("delta must lie above 0 and below 1")
    found: float = _accountant(mechanisms).get_epsilon(delta)
    return found


def tight_delta(mechanisms: Sequence[Mechanism], epsilon: float) -> float:
    """The least delta of all the mechanisms together; raises as `tight_epsilon` does."""
    found: float = _accountant(mechanisms).get_delta(epsilon)
    return found


def _accountant(mechanisms: Sequence[Mechanism]):  # type: ignore[no-untyped-def] # noqa: ANN202, dp-accounting is untyped
    try:
        import dp_accounting
        from dp_accounting.pld import PLDAccountant
    except ImportError:
        raise ConfigError("tight figures need dp-accounting: install wardround[privacy]") from None
    accountant = PLDAccountant()
    for mechanism in mechanisms:
        check(mechanism)
        match mechanism:
            case Gaussian():
                event = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
            case Laplace():
                event = dp_accounting.LaplaceDpEvent(mechanism.scale)
            case SampledGaussian():
                inner = dp_accounting.GaussianDpEvent(mechanism.noise_multiplier)
                event = dp_accounting.PoissonSampledDpEvent(mechanism.sampling_rate, inner)
        accountant.compose(dp_accounting.SelfComposedDpEvent(event, mechanism.steps))
    return accountant
