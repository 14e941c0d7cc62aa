"""Privacy accounting: what a release costs, and how much noise it needs.

The slicing mechanism publishes a random frame U (d x p) and XU + V, with V i.i.d. N(0, sigma^2).
Given U it is a Gaussian mechanism whose ratio of sensitivity to noise, mu, depends on U alone, and
U has the same law whatever the data. So every exact statement here is the analytic Gaussian profile
averaged over the law of mu; bounds (the paper's Theorem 1, RDP conversion) are offered for
comparison.

``sensitivity`` is the L2 distance of two neighbouring rows: ``max_norm`` for ``zero_out``
adjacency, the diameter of the record domain for ``replace_one``. The number of rows is public.

A release of sums is a Gaussian mechanism with the bounds of its features in place of the rows':
`sum_guarantee` and `calibrate_sums`. Under ``add_remove`` the number of records is protected too.

The paper is Greenewald, Yu, Wang, Xu, "Privacy without Noisy Gradients: Slicing Mechanism for
Generative Model Training", NeurIPS 2024, arXiv:2410.19941.
"""

from dpslice.accounting._adjacency import ADJACENCIES, SUM_ADJACENCIES
from dpslice.accounting._claims import computed_again
from dpslice.accounting._composition import Slicing, composed_delta, composed_epsilon
from dpslice.accounting._gaussian import calibrate_sigma, delta, epsilon, log_delta
from dpslice.accounting._guarantee import Guarantee
from dpslice.accounting._reference import paper_alpha, paper_epsilon, paper_sigma, rdp, rdp_epsilon
from dpslice.accounting._rounding import numerical_loss, sum_numerical_loss
from dpslice.accounting._shuffling import calibrate_shuffled_mu, shuffled_delta, shuffled_epsilon
from dpslice.accounting._slicing import calibrate_slicing, slicing_guarantee
from dpslice.accounting._subsampling import (
    Subsample,
    calibrate_subsampled_sigma,
    lemma1_not_a_guarantee,
    subsampled_delta,
    subsampled_epsilon,
)
from dpslice.accounting._sums import calibrate_sums, choice_range, sum_guarantee
from dpslice.frames import FRAMES

__all__ = [
    "ADJACENCIES",
    "FRAMES",
    "SUM_ADJACENCIES",
    "Guarantee",
    "Slicing",
    "Subsample",
    "calibrate_shuffled_mu",
    "calibrate_sigma",
    "calibrate_slicing",
    "calibrate_subsampled_sigma",
    "calibrate_sums",
    "choice_range",
    "composed_delta",
    "composed_epsilon",
    "computed_again",
    "delta",
    "epsilon",
    "lemma1_not_a_guarantee",
    "log_delta",
    "numerical_loss",
    "paper_alpha",
    "paper_epsilon",
    "paper_sigma",
    "rdp",
    "rdp_epsilon",
    "shuffled_delta",
    "shuffled_epsilon",
    "slicing_guarantee",
    "subsampled_delta",
    "subsampled_epsilon",
    "sum_guarantee",
    "sum_numerical_loss",
]
