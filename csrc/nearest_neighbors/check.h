// The refusals that CPU and CUDA share, for every operator on point clouds.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/tensor.h"
#include "nearest_neighbors/tree.h"

namespace zoo::nearest_neighbors {

inline void check_cloud(const Tensor& points, const char* name) {
  require(points.dim() == 2 && (points.size(1) == 2 || points.size(1) == 3), name, " must be [n 2] or [n 3]");
  require(points.size(0) <= kMostPoints, name, " must have fewer than 2^31 points");
}

inline void check_pair(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  check_cloud(a, a_name);
  check_cloud(b, b_name);
  require(a.size(1) == b.size(1), a_name, " and ", b_name, " must have the same number of coordinates, got ", a.size(1),
          " and ", b.size(1));
  require(a.scalar_type() == b.scalar_type(), a_name, " and ", b_name, " must have the same dtype");
  require(a.device() == b.device(), a_name, " and ", b_name, " must be on the same device");
}

inline void check(const Tensor& query, const Tensor& reference, int64_t k, double max_distance) {
  check_pair(query, "query", reference, "reference");
  require(reference.size(0) > 0, "reference must have at least one point");
  require(k >= 1 && k <= reference.size(0), "k must be from 1 to the number of reference points (", reference.size(0),
          "), not ", k);
  require(max_distance > 0, "max_distance must be positive");
}

// Coordinates beyond this have squares that overflow.
template <typename A>
constexpr A kLargest = sizeof(A) == 4 ? static_cast<A>(1e18) : static_cast<A>(1e150);

// Whether all coordinates are finite and can be squared.
template <typename A>
bool usable(const A* x, int64_t count) {
  bool fine = true;
  for (int64_t i = 0; i < count; ++i) fine &= std::fabs(x[i]) <= kLargest<A>;
  return fine;
}

}  // namespace zoo::nearest_neighbors
