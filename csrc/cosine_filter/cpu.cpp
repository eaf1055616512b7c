// cosine_filter on CPU: norms, batch gradient and dot products in one sweep over the gradients, the aggregate in a
// second one; with a dimension measure two more, for the measure and for the dot products on the chosen coordinates.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "common/simd.h"
#if ZOO_SIMD_X86
#include <immintrin.h>
#endif

#include "common/tensor.h"
#include "cosine_filter/check.h"
#include "cosine_filter/problem.h"

#define ZOO_SIMD_KERNEL "cosine_filter/kernel.inl"
#include "common/for_each_simd_level.h"

namespace zoo::cosine_filter {
namespace {

// A block of columns should stay in the second-level cache while the next one comes, and a row's share of it span a
// few cache lines.
template <typename A>
int64_t block_width(int64_t n) {
  constexpr int64_t kCache = 256 * 1024 / static_cast<int64_t>(sizeof(A));
  int64_t width = 1024;
  while (width > 256 && n * width > kCache) width /= 2;
  return width;
}

template <typename T, typename A>
Matrix<T, A> matrix_of(const Tensor& grads, const std::vector<int64_t>& rows, Noise kind,
                       const std::optional<Tensor>& noise, double noise_scale, const std::optional<int64_t>& seed) {
  Matrix<T, A> m{};
  m.data = grads.const_data_ptr<T>();
  m.f = grads.size(1);
  m.stride_b = grads.stride(0);
  m.stride_f = grads.stride(1);
  m.rows = rows.data();
  m.n = static_cast<int64_t>(rows.size());
  m.width = block_width<A>(m.n);
  m.blocks = (m.f + m.width - 1) / m.width;
  m.tasks = std::max<int64_t>(1, std::min(kTasks, m.blocks));
  m.reach = m.width;
  m.kind = kind;
  m.noise = kind == Noise::shared ? noise->const_data_ptr<A>() : nullptr;
  m.noise_scale = noise_scale;
  m.seed = static_cast<uint64_t>(seed.value_or(0));
  return m;
}

// What is read once needs no block that stays in a cache, but long runs of each row, some for every thread. The sum of
// a column doesn't depend on it.
template <typename T, typename A>
void widen_blocks(Matrix<T, A>& m) {
  if (!m.in_place() || m.kind == Noise::independent) return;
  constexpr int64_t kStep = 16, kLongest = 16384, kAhead = 512;
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t longest = std::clamp<int64_t>(m.f / (4 * threads), m.width, kLongest);
  const int64_t runs = std::max<int64_t>(1, (m.f + longest - 1) / longest);
  m.width = std::max(kStep, m.f / runs / kStep * kStep);  // whole steps: what is left over is a short block
  m.blocks = (m.f + m.width - 1) / m.width;
  m.tasks = std::max<int64_t>(1, std::min(kTasks, m.blocks));
  m.reach = kAhead;
}

struct Sums {
  std::vector<double> rows;    // [kRowSums][n]
  std::vector<double> totals;  // [kTotalSums]
};

template <typename T, typename A>
Sums correlate(const Matrix<T, A>& m, const float* measure, float cut, bool norms_only) {
  simd::Buffer<double> rows(m.tasks * kRowSums * m.n), totals(m.tasks * kTotalSums);
  const Correlations q{measure, cut, norms_only, rows.data(), totals.data()};
  torch::stable::parallel_for(0, m.tasks, 1, [&](int64_t first, int64_t last) {
    ZOO_SIMD_CALL(correlate, m, q, first, last);
  });
  Sums sums{std::vector<double>(kRowSums * m.n), std::vector<double>(kTotalSums)};
  for (int64_t task = 0; task < m.tasks; ++task) {
    for (int64_t i = 0; i < kRowSums * m.n; ++i) sums.rows[i] += rows[task * kRowSums * m.n + i];
    for (int64_t i = 0; i < kTotalSums; ++i) sums.totals[i] += totals[task * kTotalSums + i];
  }
  return sums;
}

// The value with at least `rank` values at or below it (rank >= 1); the histogram narrows the search. Floats that are
// not negative sort like their bits.
float order_statistic(const float* values, int64_t count, int64_t rank, const int64_t* histogram) {
  int64_t bin = 0, before = 0;
  while (before + histogram[bin] < rank) before += histogram[bin++];
  std::vector<uint32_t> candidates;
  candidates.reserve(static_cast<size_t>(histogram[bin]));
  for (int64_t j = 0; j < count; ++j) {
    const uint32_t bits = ordered_bits(values[j]);
    if (bits >> kBinShift == static_cast<uint32_t>(bin)) candidates.push_back(bits);
  }
  const auto nth = candidates.begin() + (rank - before - 1);
  std::nth_element(candidates.begin(), nth, candidates.end());
  float value;
  std::memcpy(&value, &*nth, 4);
  return value;
}

template <typename A>
double cosine_of(const Sums& sums, int64_t n, int64_t i, Noise kind, double factor) {
  const double* row = sums.rows.data() + i;
  const bool shared = kind == Noise::shared;
  const double zz = shared ? sums.totals[kTotalZZ] : row[kZZ * n];
  const double zm = shared ? sums.totals[kTotalZM] : row[kZM * n];
  const double dot = factor * row[kXM * n] + zm;
  const double square = factor * factor * row[kXX * n] + 2 * factor * row[kXZ * n] + zz;
  const double lengths = std::sqrt(std::max(square, 0.0)) * std::sqrt(sums.totals[kMM]);
  return lengths > 0 ? std::min(1.0, std::max(-1.0, dot / lengths)) : 0.0;
}

template <typename T>
void score(const Tensor& grads, Noise kind, const std::optional<Tensor>& noise, double noise_scale,
           const std::optional<int64_t>& seed, double clip_norm, Measure measure, int64_t unselected, Tensor& cosine,
           Tensor& norms) {
  using A = accumulate_t<T>;
  const int64_t b = grads.size(0), f = grads.size(1);
  A* cosine_data = cosine.mutable_data_ptr<A>();
  A* norm_data = norms.mutable_data_ptr<A>();
  std::vector<int64_t> rows(static_cast<size_t>(b));
  std::iota(rows.begin(), rows.end(), 0);
  const bool masked = measure != Measure::none && unselected > 0;

  auto m = matrix_of<T, A>(grads, rows, kind, noise, noise_scale, seed);
  if (masked) m.kind = Noise::none;
  Sums sums = correlate(m, nullptr, 0.0f, masked);
  std::vector<int64_t> usable;
  std::vector<A> factors;
  for (int64_t i = 0; i < b; ++i) {
    norm_data[i] = static_cast<A>(std::sqrt(sums.rows[kXX * b + i]));
    cosine_data[i] = std::numeric_limits<A>::quiet_NaN();
    if (!std::isfinite(norm_data[i])) continue;
    usable.push_back(i);
    factors.push_back(clip_factor(norm_data[i], clip_norm));
  }
  if (usable.empty()) return;

  if (masked) {
    m = matrix_of<T, A>(grads, usable, kind, noise, noise_scale, seed);
    simd::Buffer<float> measures(f);
    std::vector<int64_t> histogram(kBins);
    const Moments<A> q{measure, factors.data(), measures.data(), histogram.data()};
    torch::stable::parallel_for(0, m.tasks, 1, [&](int64_t first, int64_t last) {
      ZOO_SIMD_CALL(measure_columns, m, q, first, last);
    });
    const float cut = order_statistic(measures.data(), f, unselected, histogram.data());
    sums = correlate(m, measures.data(), cut, false);
  } else if (static_cast<int64_t>(usable.size()) < b) {
    // A sample that is not finite has spoilt the batch gradient: once more, without it.
    m = matrix_of<T, A>(grads, usable, kind, noise, noise_scale, seed);
    sums = correlate(m, nullptr, 0.0f, false);
  }
  for (int64_t i = 0; i < m.n; ++i) {
    cosine_data[usable[i]] = static_cast<A>(cosine_of<A>(sums, m.n, i, kind, static_cast<double>(factors[i])));
  }
}

template <typename A>
void refuse_not_finite(const Tensor& noise) {
  const A* data = noise.const_data_ptr<A>();
  std::atomic<bool> finite{true};
  torch::stable::parallel_for(0, noise.size(0), 1 << 16, [&](int64_t first, int64_t last) {
    int bad = 0;
    for (int64_t j = first; j < last; ++j) bad |= data[j] - data[j] == A(0) ? 0 : 1;
    if (bad) finite = false;
  });
  require(finite, "noise must be finite");
}

std::tuple<Tensor, Tensor> cosine_filter_cpu(Tensor grads, std::optional<Tensor> noise, double noise_scale,
                                             std::optional<int64_t> seed, double clip_norm, std::string measure_name,
                                             int64_t unselected) {
  const Noise kind = check_noise(grads, noise, seed);
  const Measure measure = check_measure(grads, clip_norm, measure_name, unselected);
  if (noise) noise = torch::stable::contiguous(*noise);
  const int64_t shape[] = {grads.size(0)};
  Tensor cosine = torch::stable::new_empty(grads, {shape, 1}, accumulate_dtype(grads));
  Tensor norms = torch::stable::new_empty(grads, {shape, 1}, accumulate_dtype(grads));
  dispatch_floating(grads.scalar_type(), "per_sample_grads", [&](auto type) {
    using T = typename decltype(type)::type;
    score<T>(grads, kind, noise, noise_scale, seed, clip_norm, measure, unselected, cosine, norms);
  });
  return {cosine, norms};
}

Tensor cosine_filter_aggregate_cpu(Tensor grads, Tensor weights, Tensor coefficients, std::optional<Tensor> noise,
                                   double noise_scale, std::optional<int64_t> seed) {
  const Noise kind = check_noise(grads, noise, seed);
  check_aggregate(grads, weights, coefficients);
  if (noise) noise = torch::stable::contiguous(*noise);
  weights = torch::stable::contiguous(weights);
  coefficients = torch::stable::contiguous(coefficients);
  const int64_t shape[] = {grads.size(1)};
  Tensor out = torch::stable::new_empty(grads, {shape, 1});
  dispatch_floating(grads.scalar_type(), "per_sample_grads", [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulate_t<T>;
    if (noise) refuse_not_finite<A>(*noise);
    const A* weight = weights.const_data_ptr<A>();
    std::vector<int64_t> rows;
    std::vector<A> kept;
    for (int64_t i = 0; i < grads.size(0); ++i) {
      if (weight[i] == A(0)) continue;  // not read at all: it may hold NaN
      rows.push_back(i);
      kept.push_back(weight[i]);
    }
    const double* scales = coefficients.const_data_ptr<double>();
    auto m = matrix_of<T, A>(grads, rows, kind, noise, noise_scale, seed);
    widen_blocks(m);
    const Aggregate<T, A> q{kept.data(), scales[0], scales[1], out.mutable_data_ptr<T>()};
    torch::stable::parallel_for(0, m.tasks, 1, [&](int64_t first, int64_t last) {
      ZOO_SIMD_CALL(aggregate, m, q, first, last);
    });
  });
  return out;
}

}  // namespace
}  // namespace zoo::cosine_filter

STABLE_TORCH_LIBRARY_IMPL(zoo, CPU, m) {
  m.impl("cosine_filter", TORCH_BOX(&zoo::cosine_filter::cosine_filter_cpu));
  m.impl("cosine_filter_aggregate", TORCH_BOX(&zoo::cosine_filter::cosine_filter_aggregate_cpu));
}
