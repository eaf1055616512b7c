// prototype_similarity on CPU: pack the prototypes, scan the cells in parallel, merge, and finish the winners.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <tuple>

#include "common/simd.h"
#include "common/tensor.h"
#include "prototype_similarity/check.h"
#include "prototype_similarity/problem.h"

#define ZOO_SIMD_KERNEL "prototype_similarity/kernel.inl"
#include "common/for_each_simd_level.h"

namespace zoo::prototype_similarity {
namespace {

// packed [ceil(p / kBlock)][d][kBlock] and squares [p]; false when a length is not finite.
template <typename T, typename A>
bool pack_prototypes(const T* data, int64_t p, int64_t d, bool cosine, A* packed, A* squares) {
  std::fill(packed, packed + (p + kBlock - 1) / kBlock * kBlock * d, A(0));
  bool finite = true;
  for (int64_t i = 0; i < p; ++i) {
    const T* row = data + i * d;
    A square = 0;
    for (int64_t k = 0; k < d; ++k) square += static_cast<A>(row[k]) * static_cast<A>(row[k]);
    finite &= std::isfinite(square);
    const A norm = std::sqrt(square);
    const A scale = !cosine ? A(1) : norm > static_cast<A>(kEpsilon) ? A(1) / norm : A(0);
    A* out = packed + i / kBlock * kBlock * d + i % kBlock;
    for (int64_t k = 0; k < d; ++k) out[k * kBlock] = static_cast<A>(row[k]) * scale;
    squares[i] = square;
  }
  return finite;
}

// The expanded |x|^2 + |p|^2 - 2xp that finds the winner cancels badly near zero, where the log activation is steep:
// the winner's own distance is summed from differences.
template <typename T, typename A>
A winner_distance(const Problem<T, A>& q, const T* prototypes, int64_t b, int64_t p, int64_t cell) {
  const T* x = q.features + b * q.stride_b + cell * q.stride_n;
  const T* y = prototypes + p * q.d;
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
  const T* prototype_data = prototypes.const_data_ptr<T>();

  simd::Buffer<A> packed((p + kBlock - 1) / kBlock * kBlock * d);
  simd::Buffer<A> squares(p);
  require(pack_prototypes(prototype_data, p, d, cosine, packed.data(), squares.data()),
          "prototypes must be finite (and small enough to be squared)");

  const int64_t chunks = (n + kChunk - 1) / kChunk;
  simd::Buffer<A> best(b * chunks * p);
  simd::Buffer<int64_t> best_cell(b * chunks * p);
  std::atomic<bool> not_finite{false};
  const Problem<T, A> q{features.const_data_ptr<T>(), b, n, d, p,
                        features.stride(0), features.stride(1), features.stride(2),
                        cosine, packed.data(), squares.data(),
                        chunks, best.data(), best_cell.data(), &not_finite};
  torch::stable::parallel_for(0, b * chunks, 1, [&](int64_t first, int64_t last) {
    ZOO_SIMD_CALL(scan, q, first, last);
  });
  require(!not_finite, "features must be finite (and small enough to be squared)");

  T* similarity_data = similarity.mutable_data_ptr<T>();
  int64_t* argmax_data = argmax.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, b * p, 256, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t row = i / p, column = i % p;
      int64_t slot = row * chunks * p + column;
      for (int64_t c = 1; c < chunks; ++c) {
        const int64_t other = (row * chunks + c) * p + column;
        if (best[other] > best[slot]) slot = other;
      }
      A value = best[slot];
      if (!cosine) {
        const A distance = winner_distance(q, prototype_data, row, column, best_cell[slot]);
        value = metric == Metric::l2 ? -distance : std::log((distance + A(1)) / (distance + A(1e-4)));
      }
      similarity_data[i] = static_cast<T>(value);
      argmax_data[i] = best_cell[slot];
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
