// prototype_similarity on CPU: pack the prototypes, scan the cells in parallel, merge, and finish the winners.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <type_traits>

#include "common/simd.h"
#include "common/tensor.h"
#include "prototype_similarity/check.h"
#include "prototype_similarity/problem.h"

#define ZOO_SIMD_KERNEL "prototype_similarity/kernel.inl"
#include "common/for_each_simd_level.h"

namespace zoo::prototype_similarity {
namespace {

// The expanded |x|^2 + |p|^2 - 2xp that finds the winner cancels badly near zero, where the log activation is steep:
// the winner's own distance is summed from differences.
template <typename T, typename A>
A winner_distance(const Problem<T, A>& q, int64_t b, int64_t p, int64_t cell) {
  const T* x = q.features + b * q.stride_b + cell * q.stride_n;
  const T* y = q.prototypes + p * q.d;
  A sum = 0;
  for (int64_t k = 0; k < q.d; ++k) {
    const A difference = static_cast<A>(x[k * q.stride_d]) - static_cast<A>(y[k]);
    sum += difference * difference;
  }
  return sum;
}

template <typename T>
void forward(const Tensor& features, const Tensor& prototypes, Metric metric, Tensor& similarity, Tensor& argmax) {
  using A = accumulate_t<T>;
  const int64_t b = features.size(0), n = features.size(1), d = features.size(2), p = prototypes.size(0);
  const bool cosine = metric == Metric::cosine;
  const Cut cut = Cut::of<A>(b, n, d);
  simd::Buffer<A> packed(padded(p) * d);
  simd::Buffer<A> best(b * cut.tasks * padded(p));
  simd::Buffer<int32_t> best_cell(b * cut.tasks * padded(p));
  std::atomic<bool> features_finite{true}, prototypes_finite{true};
  const Problem<T, A> q{features.const_data_ptr<T>(), b, n, d, p,
                        features.stride(0), features.stride(1), features.stride(2),
                        prototypes.const_data_ptr<T>(), cosine, cut,
                        packed.data(), best.data(), best_cell.data(), &features_finite, &prototypes_finite};
  torch::stable::parallel_for(0, ZOO_SIMD_CALL(panel_count, q), 1, [&](int64_t first, int64_t last) {
    ZOO_SIMD_CALL(pack, q, first, last);
  });
  require(prototypes_finite, "prototypes must be finite (and small enough to be squared)");
  torch::stable::parallel_for(0, b * cut.tasks, 1, [&](int64_t first, int64_t last) {
    ZOO_SIMD_CALL(scan, q, first, last);
  });
  require(features_finite, "features must be finite (and small enough to be squared)");

  T* similarity_data = similarity.mutable_data_ptr<T>();
  int64_t* argmax_data = argmax.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, b * p, 256, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / p, column = i % p;
      const A* scores = best.data() + row * cut.tasks * padded(p) + column;
      int64_t task = 0;
      for (int64_t other = 1; other < cut.tasks; ++other) {
        if (scores[other * padded(p)] > scores[task * padded(p)]) task = other;
      }
      const int64_t cell = task * cut.cells + best_cell[(row * cut.tasks + task) * padded(p) + column];
      A value = scores[task * padded(p)];
      if (!cosine) {
        const A distance = winner_distance(q, row, column, cell);
        value = metric == Metric::l2 ? -distance : std::log((distance + A(1)) / (distance + A(1e-4)));
      }
      similarity_data[i] = static_cast<T>(value);
      argmax_data[i] = cell;
    }
  });
}

std::tuple<Tensor, Tensor> prototype_similarity_cpu(Tensor features, Tensor prototypes, std::string metric_name) {
  const Metric metric = check(features, prototypes, metric_name);
  prototypes = torch::stable::contiguous(prototypes);
  const int64_t shape[] = {features.size(0), prototypes.size(0)};
  Tensor similarity = torch::stable::new_empty(features, {shape, 2});
  Tensor argmax = torch::stable::new_empty(features, {shape, 2}, ScalarType::Long);
  dispatch_floating(features.scalar_type(), "features", [&](auto type) {
    forward<typename decltype(type)::type>(features, prototypes, metric, similarity, argmax);
  });
  return {similarity, argmax};
}

}  // namespace
}  // namespace zoo::prototype_similarity

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) {
  m.impl("prototype_similarity", TORCH_BOX(&zoo::prototype_similarity::prototype_similarity_cpu));
}
