// log sum_j exp(s_j) of a stream of numbers, as the running pair (maximum, sum of exp(s_j -
// maximum)).
//
// Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867. V is a
// number or a vector of numbers (then each lane is a stream of its own). `Exp` maps V to V.
#pragma once

#include "host_device.h"

namespace dpslice {

template <class V>
struct RunningLogSum {
  V maximum;
  V sum;

  // `lowest` is the lowest finite number, not -inf: of a stream that holds only -inf, the
  // differences s_j - maximum are then -inf and not NaN, so the sum stays 0 and its logarithm is
  // -inf.
  DPSLICE_HD inline void start(V lowest) {
    maximum = lowest;
    sum = V{};
  }

  // Makes room for numbers up to `bound` >= maximum: their terms are exp(s_j - bound) from here on.
  template <class Exp>
  DPSLICE_HD inline void raise(V bound, Exp exp) {
    sum = sum * exp(maximum - bound);
    maximum = bound;
  }
};

}  // namespace dpslice
