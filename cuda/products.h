// Sums over pairs of points by matrix products, in float32 above kSmallDims: what pair_sums.cuh
// asks of products.cu. For kernel sources.
#pragma once

#include "pairs.cuh"

namespace dpslice::cuda {

constexpr int kProductTile = 128;  // targets, and sources, of a block

// One side in packs, and the memory for it.
class PackedSide {
 public:
  PackedSide(const Side<float>& side, int index, int64_t m, int64_t k, bool with_values,
             const Execution& execution);
  // The side with what products need of it.
  Side<float> in_packs(Side<float> side) const;

 private:
  friend class PackedSides;
  void measure(const Side<float>& side, int64_t m, int64_t k, const float* bandwidth,
               const double* centre, Measured* measured, const Execution& execution) const;
  void pack(const Side<float>& side, int64_t m, int64_t k, const float* bandwidth,
            const double* centre, const Measured* measured, const Execution& execution) const;

  int index_;
  bool with_values_;
  int64_t rows_, packs_, value_rows_, value_packs_;
  Workspace<double> norm_;
  Workspace<uint16_t> points_, values_;
};

// The two sides of one problem, measured and in packs; `values` of those that will be sources of a
// gradient.
class PackedSides {
 public:
  PackedSides(const Side<float>& x, const Side<float>& y, int64_t m, int64_t k,
              const float* bandwidth, bool values_of_x, bool values_of_y,
              const Execution& execution);
  const PackedSide& x() const { return x_; }
  const PackedSide& y() const { return y_; }
  const double* centre() const { return centre_.data(); }
  Measured* measured() const { return measured_.data(); }

 private:
  Workspace<double> centre_;
  Workspace<Measured> measured_;
  PackedSide x_, y_;
};

// total, and with logsum maximum, [parts, m, targets], of the slices by products; the norms of the
// targets are left out of the maximum.
template <Reduction reduction>
void launch_product_sums(const Pairs<float>& pairs, double* total, double* maximum,
                         const Execution& execution);
int64_t parts_of_product_sums(const Pairs<float>& pairs, const Execution& execution);

// pull [parts, m, targets, k + 1] of the slices by products: sum_j W_ij f_j (v_j)_t, then
// sum_j W_ij f_j, with v the scaled points and f the factors of the sources.
void launch_product_pulls(const Pairs<float>& pairs, float* pull, const Execution& execution);
int64_t parts_of_product_pulls(const Pairs<float>& pairs, const Execution& execution);

}  // namespace dpslice::cuda
