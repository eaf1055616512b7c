// The state of a registration as plain data, shared by the SIMD core and the loop around it.
#pragma once

#include <cstdint>

#include "icp/core.h"

namespace zoo::icp {

constexpr int kWide = nearest_neighbors::kWide;
constexpr int64_t kChunk = 16;  // groups per task; fixed, so that no result depends on the number of threads

// 16 source points that lie together, and what is known of their nearest neighbours.
template <typename A, int D>
struct alignas(64) Group {
  A x[D][kWide];       // source, padded with copies of the last point
  A anchor[D][kWide];  // where the point was at its last search
  A near[D][kWide];    // the nearest neighbour found then
  A second[kWide];     // distance from the anchor up to which there is no point but that neighbour
  A distance[kWide];   // squared, of the current pair
  int32_t slot[kWide];  // of the neighbour in the tree; -1: none within the search radius
  int32_t index[kWide];  // of the neighbour in the target
};

template <typename A, int D>
struct Problem {
  const nearest_neighbors::Tree<A, D>* target;
  const A* normals;  // [m D] or null
  Group<A, D>* groups;
  int64_t n, group_count;
  A reach;           // max_distance
  A radius;          // of the search, beyond the reach: an outlier that hardly moves needs no search either
  double source_center[D], target_center[D];
  double* sums;      // [chunks][kSums]
};

// What a walk over the groups does.
template <typename A, int D>
struct Pass {
  Motion<D> motion;
  bool first;  // nothing is known yet
  bool match;  // find the neighbours
  bool add;    // sum up the pairs within the limit
  A limit;     // squared
};

}  // namespace zoo::icp
