"""What a bound is: from the counts of one point to a lower bound on p_A, at an error probability alpha."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """The counts of one point, with the class `c` fixed beforehand by the selection samples.

    n           estimation samples drawn (one without a prediction is no hit and still counts here)
    hits        |S|, samples on which the sampler said c
    audited     K', hits on which the base classifier was run from zero on the same noise; drawn from S uniformly
                without replacement, by randomness independent of everything else
    disagreed   k, audited hits on which the base classifier did not say c (a failed solve disagrees)
    audited_misses, found
                samples on which the sampler did not say c, on which the base classifier was run in the same way, and
                those of them on which it said c (a failed solve does not)
    """

    n: int
    hits: int
    audited: int = 0
    disagreed: int = 0
    audited_misses: int = 0
    found: int = 0


@dataclass(frozen=True)
class Bound:
    """A lower bound on p_A = P(F(x + e) = c), e ~ N(0, sigma^2 I), F the base classifier.

    `audited`: it is for samples of another sampler than F, corrected by an audit; otherwise F itself made them.
    `sound`: p_lower is above p_A with probability at most alpha. `anytime`: that holds at all sample sizes at once.
    `misses`: it takes an audit of the sampler's misses too; other bounds ignore that audit.
    `function(hits, n, audited, disagreed, alpha)`, with `misses` also of (audited_misses, found), raises ValueError for
    counts that cannot be. `detail` has the bound's own settings in words.
    """

    name: str
    function: Callable[..., float]
    audited: bool
    sound: bool = True
    anytime: bool = False
    misses: bool = False
    detail: str = ""

    def p_lower(self, evidence: Evidence, alpha: float) -> float:
        """The bound of this evidence."""
        of_misses = (evidence.audited_misses, evidence.found) if self.misses else ()
        return self.function(evidence.hits, evidence.n, evidence.audited, evidence.disagreed, alpha, *of_misses)

    @property
    def label(self) -> str:
        """The name, its own settings, and that it is unsound where it is."""
        beside = self.detail if self.sound else "unsound"
        return f"{self.name} ({beside})" if beside else self.name
