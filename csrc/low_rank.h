// A solver for K + ridge I that is approximate and cheap, where some points span the others.
// For kernel sources only.
//
// Gram matrices of smooth kernels in few dimensions are nearly of low rank: 50 points of a plane
// span 500. With the first `rank` rows of the factor of K, U [rank, size], K = U^T U + E, where E
// is positive semidefinite and its trace, a bound on its norm, is known. Then
//   (U^T U + ridge I)^-1 = (I - U^T M^-1 U) / ridge,  M = U U^T + ridge I,
// costs about 2 size rank^2 operations to make and differs from (K + ridge I)^-1 by a factor of
// 1 + trace(E) / ridge at most, which a refinement takes off (gram_solver.h).
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "cholesky.h"
#include "parallel.h"
#include "simd.h"
#include "tile_product.h"

namespace dpslice::DPSLICE_ISA {

class LowRankSolver {
 public:
  // From the upper triangle of K + ridge I, whose first `most` rows may be used, up to a whole
  // tile. False if these do not leave a trace small beside the ridge. K has ones on its diagonal.
  bool factor(const double* matrix, CholeskyShape shape, int64_t size, int64_t most, double ridge) {
    shape_ = shape;
    rank_ = 0;
    rows_.resize(padded_rows(most) * shape.stride);
    left_.resize(shape.stride);
    for (int64_t j = 0; j < shape.stride; ++j) left_[j] = j < size ? 1.0 : 0.0;
    ridge_ = ridge;
    const double enough = kLargestTrace * ridge;
    for (;;) {
      if (rank_ >= most) return false;
      copy_rows(matrix);
      // A row that those before it span to the last digit adds nothing but rounding.
      if (!factor_rows<true>(rows_.data(), shape, 0, rank_, rank_ + kTileRows,
                             DBL_EPSILON * static_cast<double>(size)))
        return false;
      rank_ += kTileRows;
      trace_ = subtract_squares();
      if (trace_ <= enough) break;
      const bool halfway = 2 * rank_ >= most && 2 * (rank_ - kTileRows) < most;
      // The second half of the rows hardly takes off more digits than the first.
      if (halfway && trace_ * trace_ > enough * static_cast<double>(size)) return false;
    }
    for (int64_t i = 0; i < rank_; ++i) {  // the diagonal holds reciprocals
      double& pivot = rows_[i * shape.stride + i];
      pivot = pivot > 0 ? 1 / pivot : 0;
    }
    return factor_inner(size);
  }

  // A bound on the part of an error that a refinement leaves: ||E|| / ridge <= trace(E) / ridge.
  double rate() const { return trace_ > 0 ? trace_ / ridge_ : 0; }

  // solution <- (U^T U + ridge I)^-1 x, both [stride]; not the same array.
  void solve(const double* x, double* solution) {
    constexpr int L = kLanes<double>;
    const int64_t stride = shape_.stride;
    const CholeskyShape inner(rank_);
    for (int64_t i = 0; i < rank_; i += 4) {
      const double* const row = rows_.data() + i * stride;
      Vec<double> sum[4] = {};
      for (int64_t j = first_column<double>(i / kTileRows * kTileRows); j < shape_.order; j += L) {
        const Vec<double> given = load(x + j);
        for (int r = 0; r < 4; ++r) sum[r] += load(row + r * stride + j) * given;
      }
      for (int r = 0; r < 4; ++r) projected_[i + r] = sum_lanes<double>(sum[r]);
    }
    solve_transposed(inner_.data(), inner, projected_.data());
    DPSLICE_ISA::solve(inner_.data(), inner, projected_.data(), weights_.data());
    for (int64_t j = 0; j < stride; ++j) solution[j] = x[j];
    for (int64_t i = 0; i < rank_; i += 4) {
      const double* const row = rows_.data() + i * stride;
      const double* const weight = weights_.data() + i;
      for (int64_t j = first_column<double>(i / kTileRows * kTileRows); j < shape_.order; j += L)
        store(solution + j,
              load(solution + j) - weight[0] * load(row + j) - weight[1] * load(row + stride + j) -
                  weight[2] * load(row + 2 * stride + j) - weight[3] * load(row + 3 * stride + j));
    }
    const double per_ridge = 1 / ridge_;
    for (int64_t j = 0; j < stride; ++j) solution[j] *= per_ridge;
  }

 private:
  // Of the trace, in ridges. The norm of E is less: most refinements add two or three digits.
  static constexpr double kLargestTrace = 0.05;

  // Rows of the next tile, of K without the ridge.
  void copy_rows(const double* matrix) {
    const int64_t stride = shape_.stride;
    for (int64_t i = rank_; i < rank_ + kTileRows; ++i) {
      const double* const from = matrix + i * stride;
      double* const to = rows_.data() + i * stride;
      for (int64_t j = first_column<double>(rank_); j < i; ++j) to[j] = 0;
      to[i] = 1;
#pragma omp simd
      for (int64_t j = i + 1; j < stride; ++j) to[j] = from[j];
    }
  }

  // Takes the last tile of rows off what is left of the diagonal; its trace past these rows.
  double subtract_squares() {
    constexpr int L = kLanes<double>;
    const int64_t stride = shape_.stride;
    const double* const row = rows_.data() + (rank_ - kTileRows) * stride;
    double* const left = left_.data();
    for (int64_t i = rank_ - kTileRows; i < rank_; ++i) left[i] = 0;
    Vec<double> trace{};
    static_assert(kTileRows % L == 0, "a tile of rows ends at a whole vector");
    for (int64_t j = rank_; j < shape_.order; j += L) {
      Vec<double> here = load(left + j);
      for (int r = 0; r < kTileRows; ++r) {
        const Vec<double> entry = load(row + r * stride + j);
        here -= entry * entry;
      }
      store(left + j, here);
      trace += here;
    }
    return sum_lanes<double>(trace);
  }

  // The factor of M.
  bool factor_inner(int64_t size) {
    constexpr int L = kLanes<double>;
    const CholeskyShape inner(rank_);
    const int64_t stride = shape_.stride;
    inner_.resize(inner.numbers());
    projected_.resize(inner.stride);
    weights_.resize(inner.stride);
    constexpr int kDown = 4, kAcross = kVectorRegisters < 32 ? 2 : 4;  // sums held in registers
    for (int64_t i = 0; i < rank_; i += kDown)
      for (int64_t l = i; l < rank_; l += kAcross) {
        const double* const upper = rows_.data() + i * stride;
        const double* const lower = rows_.data() + l * stride;
        Vec<double> sum[kDown][kAcross] = {};
        for (int64_t j = first_column<double>(l / kTileRows * kTileRows); j < shape_.order;
             j += L) {
          Vec<double> entry[kAcross];
          for (int q = 0; q < kAcross; ++q) entry[q] = load(lower + q * stride + j);
          for (int r = 0; r < kDown; ++r) {
            const Vec<double> other = load(upper + r * stride + j);
            for (int q = 0; q < kAcross; ++q) sum[r][q] += other * entry[q];
          }
        }
        for (int r = 0; r < kDown; ++r)
          for (int q = 0; q < kAcross; ++q)
            inner_[(i + r) * inner.stride + l + q] = sum_lanes<double>(sum[r][q]);
      }
    for (int64_t i = 0; i < rank_; ++i) inner_[i * (inner.stride + 1)] += ridge_;
    const double largest = static_cast<double>(size) + ridge_;
    pad_with_diagonal(inner_.data(), inner, rank_, largest);
    panel_.resize(packed_panel_size<double>(inner));
    return cholesky(inner_.data(), inner, DBL_EPSILON * largest, panel_.data());
  }

  CholeskyShape shape_{0};
  int64_t rank_ = 0;
  double ridge_ = 1, trace_ = 0;
  Buffer<double> rows_;   // [rank, stride] U, zeros before its diagonal from first_column on
  Buffer<double> left_;   // [stride] the diagonal of E
  Buffer<double> inner_;  // the factor of M
  Buffer<double> projected_, weights_, panel_;
};

}  // namespace dpslice::DPSLICE_ISA
