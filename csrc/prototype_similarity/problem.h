// The operator's data as plain pointers, shared by the scalar core and the threading around it.
#pragma once

#include <atomic>
#include <cstdint>

namespace zoo::prototype_similarity {

constexpr int64_t kBlock = 12;   // prototypes per packed block: a multiple of every level's register block
constexpr int64_t kChunk = 512;  // cells per task; fixed, so that no result depends on the number of threads

constexpr double kEpsilon = 1e-8;  // a norm up to here counts as zero: such a cell or prototype is similar to nothing

// One task scans the cells [chunk * kChunk, ...) of one batch row and keeps the best cell of every prototype.
template <typename T, typename A>
struct Problem {
  const T* features;  // [b n d], any strides
  int64_t b, n, d, p;
  int64_t stride_b, stride_n, stride_d;
  bool cosine;           // else: squared Euclidean distance
  const A* packed;       // prototypes as [ceil(p / kBlock)][d][kBlock], unit length for cosine, padded with zeros
  const A* squares;      // [p] squared lengths (of the packed prototypes)
  int64_t chunks;        // tasks per batch row
  A* best;               // [b * chunks][p]
  int64_t* best_cell;    // [b * chunks][p]
  std::atomic<bool>* not_finite;
};

}  // namespace zoo::prototype_similarity
