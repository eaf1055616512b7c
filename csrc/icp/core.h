// ICP against a tree, on CPU: what the operator and the tree object share.
#pragma once

#include <cstdint>

#include "icp/solve.h"
#include "nearest_neighbors/tree.h"

namespace zoo::icp {

struct Options {
  double max_distance;  // pairs farther apart don't count; infinity for no limit
  int64_t max_iterations;
  double tolerance;
  double trim;  // the fraction of pairs dropped, those of the greatest distance
};

template <int D>
struct Result {
  Motion<D> motion;  // at first the initial motion, in the coordinates of the clouds
  double rmse = 0, fitness = 0;
  int64_t iterations = 0;
  bool converged = false;
};

// source [n D] to the points of the tree; normals [m D] by index of the target, or null for point to point.
template <typename A, int D>
void register_clouds(const nearest_neighbors::Tree<A, D>& target, const A* source, int64_t n, const A* normals,
                     const Options& options, Result<D>& result);

}  // namespace zoo::icp
