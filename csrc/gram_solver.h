// Solves with one matrix K + ridge I of float64 entries, K a Gram matrix with ones on its diagonal,
// and several right-hand sides. For kernel sources only.
//
// The condition number is up to b / ridge (1e4 at b = 128, ridge = 0.01), so entries and answers
// must be float64 for six digits to be right. What solves need not be: each refinement (the
// residual in float64, solved again) adds the digits that it has. Of three ways the cheapest that
// promises to do is tried first, and the next where refinement does not converge:
//   low rank:  some points that span the others (low_rank.h), 2 b rank^2 operations;
//   narrow:    a factor in float32, b^3 / 3 operations at twice the speed, some three digits;
//   wide:      a factor in float64, right without refinement.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "cholesky.h"
#include "low_rank.h"
#include "parallel.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {

class GramSolver {
 public:
  // The matrix to be filled: entries from first_column<double>(i) on in row i < size.
  double* start(int64_t size) {
    size_ = size;
    matrix_.resize(shape().numbers());
    return matrix_.data();
  }
  double* matrix() { return matrix_.data(); }
  CholeskyShape shape() const { return CholeskyShape(size_); }

  // Factors the matrix, K + ridge I. `spanning`: of its first rows so many or fewer may span the
  // others, or 0; `narrow`: answers are needed to float32's accuracy only. False if it is not
  // positive definite as far as float64 can tell.
  bool factor(double ridge, int64_t spanning, bool narrow) {
    ridge_ = ridge;
    largest_ = 1 + ridge;
    narrow_ = narrow;
    pad_with_diagonal(matrix_.data(), shape(), size_, largest_);
    // A bound on the relative error of answers by a factor in float64. Refinement goes well below
    // it: gradients are sums of answers whose errors, other than those of rounding, do not cancel.
    uncertain_ = DBL_EPSILON * static_cast<double>(size_) * largest_ / ridge;
    accuracy_ = narrow || uncertain_ / 64 > kAccuracy ? kAccuracy : uncertain_ / 64;
    form_ = Form::kLowRank;
    return (spanning > 0 && uncertain_ < kMostUncertain &&
            low_rank_.factor(matrix_.data(), shape(), size_, spanning, ridge)) ||
           factor_fully();
  }

  // solution <- A^-1 right_hand_side, both [stride]; not the same array. False as for `factor`.
  bool solve(const double* right_hand_side, double* solution) {
    while (form_ != Form::kWide) {
      if (refine(right_hand_side, solution)) return true;
      if (!(form_ == Form::kLowRank ? factor_fully() : factor_wide())) return false;
    }
    const CholeskyShape s = shape();
    start_residual(right_hand_side);
    solve_transposed(matrix_.data(), s, residual_.data());
    DPSLICE_ISA::solve(matrix_.data(), s, residual_.data(), solution);
    return true;
  }

 private:
  enum class Form { kLowRank, kNarrow, kWide };

  // Below this size refinement takes longer than the wider factor.
  static constexpr int64_t kLeastNarrow = 192;
  // float32 is tried where the eigenvalues are this many times its rounding error.
  static constexpr double kLeastMargin = 4;
  // Low rank is tried where answers can have six digits: rounding is too near the ridge below.
  static constexpr double kMostUncertain = 1e-6;
  // Refinement ends when the next correction would be below this, relative to the largest part of
  // the solution: small parts and differences of the float32 answers are then right to their last
  // place.
  static constexpr double kAccuracy = 1e-9;
  static constexpr int kMostRefinements = 12;

  // NaN if either is; std::fmax passes the number on, and is a call.
  static double larger(double a, double b) { return a >= b || std::isnan(a) ? a : b; }

  bool factor_fully() {
    const double rounding = FLT_EPSILON * static_cast<double>(size_) * largest_;
    return (narrow_ && size_ >= kLeastNarrow && ridge_ > kLeastMargin * rounding &&
            factor_narrow()) ||
           factor_wide();
  }

  bool factor_narrow() {
    form_ = Form::kNarrow;
    const CholeskyShape s = shape();
    factor_.resize(s.numbers());
    panel_.resize(packed_panel_size<float>(s));
    for (int64_t i = 0; i < s.order; ++i) {
      const double* const from = matrix_.data() + i * s.stride;
      float* const to = factor_.data() + i * s.stride;
      for (int64_t j = first_column<float>(i); j < i; ++j) to[j] = 0;
#pragma omp simd
      for (int64_t j = i; j < s.stride; ++j) to[j] = static_cast<float>(from[j]);
    }
    return cholesky(factor_.data(), s,
                    static_cast<float>(FLT_EPSILON * static_cast<double>(size_) * largest_),
                    panel_.data());
  }

  // In place of the matrix. A pivot below the bound has no correct digit left: its rounding error
  // is as large.
  bool factor_wide() {
    form_ = Form::kWide;
    const CholeskyShape s = shape();
    wide_panel_.resize(packed_panel_size<double>(s));
    return cholesky(matrix_.data(), s, DBL_EPSILON * static_cast<double>(size_) * largest_,
                    wide_panel_.data());
  }

  // residual = right_hand_side, zeros past its end.
  void start_residual(const double* right_hand_side) {
    const int64_t stride = shape().stride;
    residual_.resize(stride);
    for (int64_t i = 0; i < stride; ++i) residual_[i] = i < size_ ? right_hand_side[i] : 0.0;
  }

  bool refine(const double* right_hand_side, double* solution) {
    const CholeskyShape s = shape();
    start_residual(right_hand_side);
    correction_.resize(s.stride);
    for (int64_t i = 0; i < s.stride; ++i) solution[i] = 0;
    // The first two corrections may promise too much: a factor of low rank lacks what oscillates,
    // of which a smooth right-hand side has little. So the rate is not taken to be below its bound.
    const double slowest = form_ == Form::kLowRank ? low_rank_.rate() : 0;
    double before = 0;
    for (int refinement = 0; refinement <= kMostRefinements; ++refinement) {
      if (!correct()) return false;
      double size = 0, change = 0;
      for (int64_t i = 0; i < size_; ++i) {
        const double correction = correction_[i];
        solution[i] += correction;
        change = larger(change, std::fabs(correction));
        size = larger(size, std::fabs(solution[i]));
      }
      if (!(change <= DBL_MAX)) return false;
      if (change == 0) return true;
      if (refinement > 0) {
        const double rate = larger(change / before, slowest);
        if (change * rate <= accuracy_ * size) return true;
        // Rounding of the residual is all that is left, or it does not converge. The first answer
        // of a smooth right-hand side may be nothing but an error that the second takes off.
        if (refinement > 1 && !(rate < 0.5)) return change <= 2 * uncertain_ * size;
      }
      before = change;
      subtract_product(right_hand_side, solution);
    }
    return false;
  }

  // correction <- what the factor makes of the residual. False if that is not finite.
  bool correct() {
    double scale = 0;
    for (int64_t i = 0; i < size_; ++i) scale = larger(scale, std::fabs(residual_[i]));
    if (!(scale <= DBL_MAX)) return false;
    const CholeskyShape s = shape();
    if (form_ == Form::kLowRank) {
      low_rank_.solve(residual_.data(), correction_.data());
      return true;
    }
    step_.resize(s.stride);
    narrow_correction_.resize(s.stride);
    // By its scale, so that float32 neither overflows nor underflows.
    const double per_scale = scale > 0 ? 1 / scale : 0;
    for (int64_t i = 0; i < s.stride; ++i) step_[i] = static_cast<float>(residual_[i] * per_scale);
    solve_transposed(factor_.data(), s, step_.data());
    DPSLICE_ISA::solve(factor_.data(), s, step_.data(), narrow_correction_.data());
    for (int64_t i = 0; i < s.stride; ++i)
      correction_[i] = scale * static_cast<double>(narrow_correction_[i]);
    return true;
  }

  // residual = right_hand_side - A solution, from the upper triangle. Products are added up in
  // blocks: what it is off by, amplified by 1 / ridge, is what answers are off by, and it grows
  // with the length of a sum.
  void subtract_product(const double* right_hand_side, const double* solution) {
    constexpr int L = kLanes<double>;
    constexpr int64_t kRows = 64, kColumns = 32 * L;
    const CholeskyShape s = shape();
    product_.resize(s.stride);
    start_residual(right_hand_side);
    double* const residual = residual_.data();
    double* const product = product_.data();
    for (int64_t i0 = 0; i0 < s.order; i0 += kRows) {
      const int64_t i1 = i0 + kRows < s.order ? i0 + kRows : s.order;
      for (int64_t j = i0; j < s.order; ++j) product[j] = 0;
      // Four rows at a time: what they share is loaded once.
      for (int64_t i = i0; i < i1; i += 4) {
        const double* row[4];
        double own[4], total[4] = {};
        for (int r = 0; r < 4; ++r) {
          row[r] = matrix_.data() + (i + r) * s.stride;
          own[r] = solution[i + r];
        }
        for (int r = 0; r < 4; ++r) {
          total[r] += row[r][i + r] * own[r];
          for (int q = r + 1; q < 4; ++q) {
            total[r] += row[r][i + q] * own[q];
            total[q] += row[r][i + q] * own[r];
          }
        }
        int64_t j = i + 4;
        for (; j % L != 0 && j < s.order; ++j)
          for (int r = 0; r < 4; ++r) {
            total[r] += row[r][j] * solution[j];
            product[j] += row[r][j] * own[r];
          }
        while (j < s.order) {
          const int64_t end = j + kColumns < s.order ? j + kColumns : s.order;
          Vec<double> sum0{}, sum1{}, sum2{}, sum3{};
          for (; j < end; j += L) {
            const Vec<double> known = load(solution + j);
            const Vec<double> entry0 = load(row[0] + j), entry1 = load(row[1] + j),
                              entry2 = load(row[2] + j), entry3 = load(row[3] + j);
            sum0 += entry0 * known;
            sum1 += entry1 * known;
            sum2 += entry2 * known;
            sum3 += entry3 * known;
            // The four are added up first: rounded once at the size of the whole sum.
            store(product + j, load(product + j) + ((entry0 * own[0] + entry1 * own[1]) +
                                                    (entry2 * own[2] + entry3 * own[3])));
          }
          total[0] += sum_lanes<double>(sum0);
          total[1] += sum_lanes<double>(sum1);
          total[2] += sum_lanes<double>(sum2);
          total[3] += sum_lanes<double>(sum3);
        }
        for (int r = 0; r < 4; ++r) product[i + r] += total[r];
      }
      for (int64_t j = i0; j < s.order; ++j) residual[j] -= product[j];
    }
  }

  int64_t size_ = 0;
  double ridge_ = 1, largest_ = 2, uncertain_ = 0, accuracy_ = kAccuracy;
  bool narrow_ = false;
  Form form_ = Form::kWide;
  LowRankSolver low_rank_;
  Buffer<double> matrix_, wide_panel_, residual_, product_, correction_;
  Buffer<float> factor_, panel_, step_, narrow_correction_;
};

}  // namespace dpslice::DPSLICE_ISA
