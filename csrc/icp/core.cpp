// The loop of ICP on CPU: match, solve, until the pairs settle.
#include "icp/core.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "icp/problem.h"
#include "nearest_neighbors/lanes.h"

#define ZOO_SIMD_KERNEL "nearest_neighbors/search.inl"
#include "common/for_each_simd_level.h"
#define ZOO_SIMD_KERNEL "icp/kernel.inl"
#include "common/for_each_simd_level.h"

namespace zoo::icp {
namespace {

template <typename A, int D, bool kPlane>
void run(const Problem<A, D>& problem, const Pass<A, D>& pass, int64_t first, int64_t last) {
#if ZOO_SIMD_X86
  switch (simd::level()) {
    case simd::Level::avx512:
      return avx512::pass_chunks<A, D, kPlane>(problem, pass, first, last);
    case simd::Level::avx2:
      return avx2::pass_chunks<A, D, kPlane>(problem, pass, first, last);
    default:
      break;
  }
#endif
  baseline::pass_chunks<A, D, kPlane>(problem, pass, first, last);
}

template <typename A, int D>
void middle(const A* points, int64_t n, double* center) {
  for (int d = 0; d < D; ++d) {
    A low = points[d], high = points[d];
    for (int64_t i = 1; i < n; ++i) {
      low = std::min(low, points[i * D + d]);
      high = std::max(high, points[i * D + d]);
    }
    center[d] = 0.5 * (static_cast<double>(low) + static_cast<double>(high));
  }
}

template <typename A, int D, bool kPlane>
struct Registration {
  Problem<A, D> problem;
  const Options& options;
  std::vector<double> sums;      // of all chunks
  std::vector<double> distances;  // of the pairs, to trim them
  double total[kSums<D, kPlane>] = {};
  bool first = true;

  int64_t chunks() const { return (problem.group_count + kChunk - 1) / kChunk; }

  void pass(const Pass<A, D>& pass) {
    torch::stable::parallel_for(0, chunks(), 1, [&](int64_t begin, int64_t end) {
      run<A, D, kPlane>(problem, pass, begin, end);
    });
  }

  // The greatest squared distance that trimming keeps.
  A trimmed(A limit) {
    distances.clear();
    for (int64_t i = 0; i < problem.n; ++i) {
      const A d = problem.groups[i / kWide].distance[i % kWide];
      if (d <= limit) distances.push_back(static_cast<double>(d));
    }
    const int64_t count = static_cast<int64_t>(distances.size());
    const int64_t kept = count - static_cast<int64_t>(options.trim * static_cast<double>(count));
    if (kept <= 0 || kept == count) return limit;
    std::nth_element(distances.begin(), distances.begin() + (kept - 1), distances.end());
    return static_cast<A>(distances[kept - 1]);
  }

  void match(const Motion<D>& motion) {
    const A limit = problem.reach * problem.reach;
    const bool trim = options.trim > 0;
    pass({motion, first, true, !trim, limit});
    first = false;
    if (trim) pass({motion, false, false, true, trimmed(limit)});
    for (int i = 0; i < kSums<D, kPlane>; ++i) {
      total[i] = 0;
      for (int64_t chunk = 0; chunk < chunks(); ++chunk) total[i] += sums[chunk * kSums<D, kPlane> + i];
    }
  }
};

template <typename A, int D, bool kPlane>
void iterate(Problem<A, D>& problem, double extent, const Options& options, Result<D>& result) {
  Registration<A, D, kPlane> registration{problem, options, {}, {}};
  registration.sums.resize(registration.chunks() * kSums<D, kPlane>);
  registration.problem.sums = registration.sums.data();
  const double radius = extent > 0 ? extent / 2 : 1;
  const auto measure = [&] {
    registration.match(result.motion);
    const double pairs = registration.total[0];
    result.fitness = pairs / static_cast<double>(problem.n);
    result.rmse = std::sqrt(registration.total[1] / pairs);  // no pairs: NaN
    return pairs > 0;
  };
  bool paired = measure();
  while (paired && !result.converged && result.iterations < options.max_iterations) {
    const double rmse = result.rmse, fitness = result.fitness;
    if constexpr (kPlane) {  // a step from the moved points, about the target's middle
      const double origin[D] = {};
      center(result.motion, origin, problem.target_center);
      solve_planes(registration.total, radius, result.motion);
      uncenter(result.motion, origin, problem.target_center);
    } else {
      center(result.motion, problem.source_center, problem.target_center);
      solve_points(registration.total, result.motion);
      uncenter(result.motion, problem.source_center, problem.target_center);
    }
    ++result.iterations;
    paired = measure();
    result.converged = paired && std::abs(result.rmse - rmse) < options.tolerance &&
                       std::abs(result.fitness - fitness) < options.tolerance;
  }
}

}  // namespace

template <typename A, int D>
void register_clouds(const nearest_neighbors::Tree<A, D>& target, const A* source, int64_t n, const A* normals,
                     const Options& options, Result<D>& result) {
  simd::Buffer<int32_t> order(n);
  nearest_neighbors::curve_order<A, D>(source, n, order.data());
  const int64_t group_count = (n + kWide - 1) / kWide;
  simd::Buffer<Group<A, D>> groups(group_count);
  torch::stable::parallel_for(0, group_count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int j = 0; j < kWide; ++j) {
        const int64_t from = order[std::min(n - 1, i * kWide + j)];
        for (int d = 0; d < D; ++d) groups[i].x[d][j] = source[from * D + d];
      }
    }
  });
  Problem<A, D> problem{&target, normals, groups.data(), n, group_count, static_cast<A>(options.max_distance), 0,
                        {},      {},      nullptr};
  problem.radius = problem.reach * A(1.25);
  middle<A, D>(source, n, problem.source_center);
  const nearest_neighbors::Node<A, D>& root = target.nodes[target.levels - 1][0];
  double extent = 0;
  for (int d = 0; d < D; ++d) {
    const double low = *std::min_element(root.low[d], root.low[d] + kWide);
    const double high = *std::max_element(root.high[d], root.high[d] + kWide);
    problem.target_center[d] = 0.5 * (low + high);
    extent = std::max(extent, high - low);
  }
  if (normals) {
    iterate<A, D, true>(problem, extent, options, result);
  } else {
    iterate<A, D, false>(problem, extent, options, result);
  }
}

#define ZOO_INSTANTIATE(A, D)                                                                                    \
  template void register_clouds<A, D>(const nearest_neighbors::Tree<A, D>&, const A*, int64_t, const A*,         \
                                      const Options&, Result<D>&);
ZOO_INSTANTIATE(float, 2)
ZOO_INSTANTIATE(float, 3)
ZOO_INSTANTIATE(double, 2)
ZOO_INSTANTIATE(double, 3)
#undef ZOO_INSTANTIATE

}  // namespace zoo::icp
