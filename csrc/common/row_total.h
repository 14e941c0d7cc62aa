// What a row adds to a weighted total of rows: a row of weight zero is no row at all, whatever its
// value; of a log sum that may be -inf.
#pragma once

#include "host_device.h"

namespace dpslice {

template <class T>
DPSLICE_HD inline T kept_row(T weight, T row) {
  return weight == T(0) && row - row != T(0) ? T(0) : row;
}

template <class T>
DPSLICE_HD inline double weighted_row(T weight, T row) {
  return static_cast<double>(weight) * static_cast<double>(row);
}

}  // namespace dpslice
