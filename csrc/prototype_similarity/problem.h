// The operator's data as plain pointers, shared by the scalar core and the threading around it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace zoo::prototype_similarity {

constexpr int64_t kPad = 16;  // packed columns come in whole vectors: at most 16 lanes at any level

constexpr int64_t kMostCells = 64;  // per tile

inline int64_t padded(int64_t columns) { return (columns + kPad - 1) / kPad * kPad; }

// How cells are cut into work, by the shape alone, so that no result depends on the number of threads.
struct Cut {
  int64_t tile;   // cells per tile: about a quarter of a megabyte, so that it stays in the second-level cache
  int64_t cells;  // per task, within one batch row
  int64_t tasks;  // per batch row

  template <typename A>
  static Cut of(int64_t b, int64_t n, int64_t d) {
    constexpr int64_t kBytes = 256 * 1024, kLeastCells = 12, kTasks = 64;
    const int64_t fitting = kBytes / (static_cast<int64_t>(sizeof(A)) * std::max<int64_t>(d, 1));
    const int64_t widest = std::clamp(fitting, kLeastCells, kMostCells);
    const int64_t tiles = (n + widest - 1) / widest;
    const int64_t tile = (n + tiles - 1) / tiles;
    const int64_t tiles_per_task = std::clamp<int64_t>(b * tiles / kTasks, 1, 16);
    const int64_t cells = tile * tiles_per_task;
    return {tile, cells, (n + cells - 1) / cells};
  }
};

// One task scans the cells [task * cut.cells, ...) of one batch row and keeps the best cell of every prototype.
template <typename T, typename A>
struct Problem {
  const T* features;  // [b n d], any strides
  int64_t b, n, d, p;
  int64_t stride_b, stride_n, stride_d;
  const T* prototypes;  // [p d], contiguous
  bool cosine;          // else: squared Euclidean distance
  Cut cut;
  A* packed;           // the prototypes as panels, of unit length for cosine
  A* best;             // [b * tasks][padded(p)]
  int32_t* best_cell;  // [b * tasks][padded(p)], counted from the task's first cell
  std::atomic<bool>* features_finite;
  std::atomic<bool>* prototypes_finite;
};

}  // namespace zoo::prototype_similarity
