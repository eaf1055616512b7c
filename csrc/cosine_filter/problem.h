// The operator's data as plain pointers, shared by the scalar core and the threading around it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cosine_filter/check.h"

namespace zoo::cosine_filter {

constexpr int64_t kTasks = 128;       // at most; fixed, so that no result depends on the number of threads
constexpr int64_t kBins = 4096;       // of the histogram of measures: exponent and four bits of mantissa
constexpr int64_t kBinShift = 19;     // from the bits of a non-negative float to its bin
constexpr double kMeanEpsilon = 1e-12;  // keeps the coefficient of variation finite

inline uint32_t ordered_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits & 0x7fffffffu;
}

// The usable rows of the gradients, cut into blocks of columns. A task sweeps a run of consecutive blocks.
template <typename T, typename A>
struct Matrix {
  const T* data;
  int64_t f, stride_b, stride_f;
  const int64_t* rows;  // [n] which samples
  int64_t n;
  int64_t width, blocks, tasks;
  int64_t reach;  // columns from a place in a row to what is asked for while that is worked on
  // Shared noise: data [f], scaled. Independent noise: a stream of normal numbers per sample, scaled.
  Noise kind;
  const A* noise;
  double noise_scale;
  uint64_t seed;

  // Whether blocks of rows can be read where they are.
  bool in_place() const {
    return std::is_same<T, A>::value && stride_f == 1 &&
           // Rows a large power of two apart fall on the same few cache lines.
           stride_b * static_cast<int64_t>(sizeof(T)) % 4096 != 0;
  }
  int64_t first_block(int64_t task) const { return task * blocks / tasks; }
};

// Sums over the columns, per row: x is a gradient, z its noise, m the batch gradient.
enum RowSum { kXX, kXZ, kXM, kZZ, kZM, kRowSums };

// Over the columns, once: with shared noise z is the same for every row.
enum TotalSum { kMM, kTotalZZ, kTotalZM, kTotalSums };

struct Correlations {
  const float* measure;  // [f] or null: only columns whose measure is above the cut count
  float cut;
  bool norms_only;  // kXX alone
  double* rows;     // [tasks][kRowSums][n]
  double* totals;   // [tasks][kTotalSums]
};

template <typename A>
struct Moments {
  Measure measure;
  const A* factors;  // [n] clip factors
  float* out;        // [f]
  int64_t* histogram;  // [kBins], shared by the tasks (atomically)
};

template <typename T, typename A>
struct Aggregate {
  const A* weights;  // [n], none of them zero
  double sum_scale, divisor;
  T* out;  // [f]
};

}  // namespace zoo::cosine_filter
