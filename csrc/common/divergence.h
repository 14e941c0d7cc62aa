// The f-divergences: f and f' of each, with f convex, f(1) = 0 and f'(1) = 0.
//
// D_f(P || Q) = E_Q f(dP/dQ), here P synthetic and Q private, so t is the density ratio
// synthetic/private. Adding c (t - 1) to f changes no divergence between probability measures; the
// c with f'(1) = 0 makes every term f(t) >= 0. The codes are those of
// python/dpslice/divergences.py.
//
// Accuracy near t = 1, where f vanishes to second order: differences are taken so that the error of
// f is a few ulps of |t - 1|, and f' keeps full relative accuracy.
#pragma once

#include <cmath>

#include "host_device.h"

namespace dpslice {

enum DivergenceCode : int {
  kKl = 0,
  kReverseKl = 1,
  kJs = 2,
  kSquaredHellinger = 3,
  kPearson = 4,
  kNeyman = 5,
  kTotalVariation = 6,
  kAlpha = 7,
  kDivergenceCodes = 8,
};

template <class T>
struct DivergenceAt {
  T value, derivative;
};

// (exp(beta x) - 1) / beta, continued to beta = 0.
template <class T>
DPSLICE_HD inline T expm1_over(T beta, T x) {
  return beta == T(0) ? x : std::expm1(beta * x) / beta;
}

// f and f' at t >= 0; at 0 their limits, which may be infinite. `alpha` is read for kAlpha only.
template <class T>
DPSLICE_HD inline DivergenceAt<T> divergence_at(int code, T alpha, T t) {
  const T u = t - T(1);
  switch (code) {
    case kKl: {  // t log t - t + 1
      const T log_t = std::log(t);
      return {t == T(0) ? T(1) : t * log_t - u, log_t};
    }
    case kReverseKl:  // t - 1 - log t
      return {u - std::log(t), u / t};
    case kJs: {  // half of: t log(2 t / (t + 1)) + log(2 / (t + 1))
      // The argument of log1p cancels where t is small, that of log where t is near 1.
      const T derivative =
          T(0.5) * (t < T(0.5) ? std::log(T(2) * t / (t + T(1))) : std::log1p(u / (t + T(1))));
      const T first = t == T(0) ? T(0) : t * derivative;
      return {first - T(0.5) * std::log1p(T(0.5) * u), derivative};
    }
    case kSquaredHellinger: {  // (sqrt t - 1)^2
      const T root = std::sqrt(t);
      const T gap = u / (root + T(1));  // sqrt t - 1 without cancellation
      return {gap * gap, gap / root};
    }
    case kPearson:  // (t - 1)^2
      return {u * u, T(2) * u};
    case kNeyman:  // (t - 1)^2 / t
      return {u * (u / t), (u / t) * ((t + T(1)) / t)};
    case kTotalVariation:  // |t - 1| / 2; 0 is a subgradient at 1
      return {T(0.5) * std::fabs(u), u > T(0) ? T(0.5) : (u < T(0) ? T(-0.5) : T(0))};
    case kAlpha: {  // (t^alpha - alpha t - 1 + alpha) / (alpha (alpha - 1)); kl at 1, reverse_kl at
                    // 0
      const T log_t = std::log(t);
      const T derivative = expm1_over(alpha - T(1), log_t);  // (t^(alpha-1) - 1) / (alpha - 1)
      if (alpha < T(0.5)) return {(expm1_over(alpha, log_t) - u) / (alpha - T(1)), derivative};
      return {t == T(0) ? T(1) / alpha : (t * derivative - u) / alpha, derivative};
    }
    default: return {T(0) / T(0), T(0) / T(0)};
  }
}

}  // namespace dpslice
