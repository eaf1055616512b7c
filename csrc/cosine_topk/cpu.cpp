// cosine_topk on CPU: pack the queries, stream the bank in parallel into a heap per query, and merge the heaps.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/simd.h"
#include "common/tensor.h"
#include "cosine_topk/check.h"
#include "cosine_topk/problem.h"

#define ZOO_SIMD_KERNEL "cosine_topk/kernel.inl"
#include "common/for_each_simd_level.h"

namespace zoo::cosine_topk {
namespace {

constexpr int64_t kPad = 16;  // packed columns come in whole vectors: at most 16 lanes at any level

template <typename T, typename B>
void forward(const Tensor& queries, const Tensor& bank, int64_t k, const std::optional<double>& threshold,
             Tensor& similarity, Tensor& index) {
  using A = accumulate_t<T>;
  constexpr A infinity = std::numeric_limits<A>::infinity();
  const int64_t q = queries.size(0), d = queries.size(1), m = bank.size(0);

  // Enough tasks for every thread. The result is the same for any cut, because the order of results is total.
  const int64_t blocks = (q + kQueries - 1) / kQueries;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t parts = blocks == 0 ? 1 : std::clamp<int64_t>((threads + blocks - 1) / blocks, 1, (m + 255) / 256);

  simd::Buffer<A> packed((q + kPad - 1) / kPad * kPad * d);
  std::vector<A> found(parts * q * k);
  std::vector<int64_t> found_index(parts * q * k, -1);
  const A lowest = static_cast<A>(std::clamp(threshold.value_or(-2.0), -2.0, 2.0));  // no similarity lies beyond
  const A floor = std::nextafter(lowest, -infinity);
  std::fill(found.begin(), found.end(), floor);
  std::atomic<bool> bank_finite{true};
  const Problem<T, B, A> p{queries.const_data_ptr<T>(), bank.const_data_ptr<B>(), q, m, d,
                           bank.stride(0), bank.stride(1),
                        k, floor, parts, packed.data(), found.data(), found_index.data(), &bank_finite};
  require(ZOO_SIMD_CALL(pack, p, packed.data()), "queries must be finite (and small enough to be squared)");
  torch::stable::parallel_for(0, blocks * parts, 1, [&](int64_t first, int64_t last) {
    ZOO_SIMD_CALL(scan, p, first, last);
  });
  require(bank_finite, "bank must be finite (and small enough to be squared)");

  T* similarity_data = similarity.mutable_data_ptr<T>();
  int64_t* index_data = index.mutable_data_ptr<int64_t>();
  torch::stable::parallel_for(0, q, std::max<int64_t>(1, 4096 / k), [&](int64_t first, int64_t last) {
    std::vector<int64_t> order(parts * k);
    for (int64_t i = first; i < last; ++i) {
      for (int64_t j = 0; j < parts * k; ++j) order[j] = (j / k * q + i) * k + j % k;
      std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t a, int64_t b) {
        return before(found[a], found_index[a], found[b], found_index[b]);
      });
      for (int64_t j = 0; j < k; ++j) {
        const int64_t winner = found_index[order[j]];
        similarity_data[i * k + j] = static_cast<T>(winner < 0 ? -infinity : found[order[j]]);
        index_data[i * k + j] = winner;
      }
    }
  });
}

std::tuple<Tensor, Tensor> cosine_topk_cpu(Tensor queries, Tensor bank, int64_t k, std::optional<double> threshold) {
  check(queries, bank, k, threshold);
  queries = torch::stable::contiguous(queries);
  const int64_t shape[] = {queries.size(0), k};
  Tensor similarity = torch::stable::new_empty(queries, {shape, 2});
  Tensor index = torch::stable::new_empty(queries, {shape, 2}, ScalarType::Long);
  if (bank.scalar_type() == ScalarType::Char) {
    forward<float, int8_t>(queries, bank, k, threshold, similarity, index);
    return {similarity, index};
  }
  dispatch_floating(bank.scalar_type(), "queries", [&](auto type) {
    using B = typename decltype(type)::type;
    if (queries.scalar_type() == bank.scalar_type()) {
      forward<B, B>(queries, bank, k, threshold, similarity, index);
    } else if constexpr (!std::is_same_v<B, double>) {
      forward<float, B>(queries, bank, k, threshold, similarity, index);
    }
  });
  return {similarity, index};
}

}  // namespace
}  // namespace zoo::cosine_topk

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) {
  m.impl("cosine_topk", TORCH_BOX(&zoo::cosine_topk::cosine_topk_cpu));
}
