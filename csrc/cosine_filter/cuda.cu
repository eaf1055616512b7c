// cosine_filter on CUDA: a block sweeps a run of column tiles, held in shared memory between the batch gradient and the
// dot products with it. Sums go to one place per (task, row) and are added up in a fixed order, so that the result is
// the same every time. Nothing here waits for the host.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>

#include "common/cuda.h"
#include "common/tensor.h"
#include "cosine_filter/check.h"
#include "cosine_filter/problem.h"

namespace zoo::cosine_filter {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int64_t kCudaTasks = 1024;          // at most
constexpr int64_t kTileBytes = 64 * 1024;     // of shared memory for a tile: three blocks on an H100, two on an A100
constexpr int kDigits = 2048;                 // of the radix selection: 31 bits as 11 + 10 + 10

template <typename T, typename A>
struct Input {
  const T* data;  // [b f], any strides
  int64_t b, f, stride_b, stride_f;
  Noise kind;
  const A* noise;  // [f]
  double noise_scale;
  uint64_t seed;
};

__device__ double warp_sum(double value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Number column % 4 of Philox 4x32-10 with counter (column / 4, row) and key seed, made normal by Box-Muller.
__device__ double normal(uint64_t seed, int64_t row, int64_t column) {
  const uint64_t counter = static_cast<uint64_t>(column / 4), r = static_cast<uint64_t>(row);
  uint32_t c0 = static_cast<uint32_t>(counter), c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(r), c3 = static_cast<uint32_t>(r >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const bool first_pair = column % 4 < 2;
  const float uniform = static_cast<float>(first_pair ? c0 : c2) * 2.3283064365e-10f + 1.1641532183e-10f;
  const double turn = static_cast<double>(first_pair ? c1 : c3) * 4.656612873077393e-10;  // in half turns
  const double radius = sqrt(static_cast<double>(-2.0f * logf(uniform)));
  return radius * static_cast<double>(column % 2 == 0 ? cospif(static_cast<float>(turn)) : sinpif(static_cast<float>(turn)));
}

struct Layout {
  int64_t width, tasks;
  bool staged;     // the tile fits into shared memory
  int64_t shared;  // bytes
};

template <typename A>
Layout layout_of(int64_t b, int64_t f) {
  Layout layout{kThreads, 0, false, 0};
  while (layout.width > 32 && b * layout.width * static_cast<int64_t>(sizeof(A)) > kTileBytes) layout.width /= 2;
  layout.staged = b * layout.width * static_cast<int64_t>(sizeof(A)) <= kTileBytes;
  if (!layout.staged) layout.width = kThreads;
  layout.tasks = std::max<int64_t>(1, std::min(kCudaTasks, cuda::ceil_div(f, layout.width)));
  layout.shared = (3 * layout.width + kThreads) * 8;
  if (layout.staged) layout.shared += kRowSums * b * 8 + b * layout.width * static_cast<int64_t>(sizeof(A));
  return layout;
}

// usable [b] or null; measure [f] and cut [1] or null: only columns above the cut count. With `repeat`, the kernel
// returns at once unless that flag is set. rows [tasks][kRowSums][b], totals [tasks][kTotalSums].
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    correlate(Input<T, A> q, Layout layout, const int* __restrict__ repeat, const int* __restrict__ usable,
              const float* __restrict__ measure, const float* __restrict__ cut, double* __restrict__ rows,
              double* __restrict__ totals) {
  if (repeat != nullptr && *repeat == 0) return;
  extern __shared__ double shared[];
  const int64_t width = layout.width;
  double* mean = shared;
  double* z = mean + width;
  double* mask = z + width;
  double* partial = mask + width;  // [kThreads]
  double* out = rows + static_cast<int64_t>(blockIdx.x) * kRowSums * q.b;
  double* sums = layout.staged ? partial + kThreads : out;
  A* tile = reinterpret_cast<A*>(partial + kThreads + kRowSums * q.b);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = threadIdx.x % width, group = threadIdx.x / width, groups = kThreads / width;
  for (int64_t i = threadIdx.x; i < kRowSums * q.b; i += kThreads) sums[i] = 0;
  double mm = 0, zz = 0, zm = 0;

  const int64_t tiles = (q.f + width - 1) / width;
  for (int64_t t = blockIdx.x * tiles / layout.tasks; t < (blockIdx.x + 1) * tiles / layout.tasks; ++t) {
    const int64_t j = t * width + column;
    __syncthreads();  // the tile before is done with
    double sum = 0;
    if (j < q.f) {
#pragma unroll 8
      for (int64_t i = group; i < q.b; i += groups) {
        const A x = usable == nullptr || usable[i] ? static_cast<A>(q.data[i * q.stride_b + j * q.stride_f]) : A(0);
        if (layout.staged) tile[i * width + column] = x;
        sum += static_cast<double>(x);
      }
    }
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (group == 0) {
      for (int g = 1; g < groups; ++g) sum += partial[g * width + column];
      const double in = j < q.f && (measure == nullptr || measure[j] > *cut) ? 1 : 0;
      mask[column] = in;
      mean[column] = in * sum;
      z[column] = q.kind == Noise::shared && j < q.f ? in * q.noise_scale * static_cast<double>(q.noise[j]) : 0;
      mm += mean[column] * mean[column];
      zz += z[column] * z[column];
      zm += z[column] * mean[column];
    }
    __syncthreads();
    for (int64_t i = warp; i < q.b; i += kWarps) {
      double xx = 0, xz = 0, xm = 0, nn = 0, nm = 0;
      for (int64_t k = lane; k < width; k += 32) {
        const int64_t at = t * width + k;
        if (at >= q.f) break;
        double x = 0;
        if (layout.staged) {
          x = static_cast<double>(tile[i * width + k]);
        } else if (usable == nullptr || usable[i]) {
          x = static_cast<double>(static_cast<A>(q.data[i * q.stride_b + at * q.stride_f]));
        }
        xx += x * mask[k] * x;
        xm += x * mean[k];
        if (q.kind == Noise::shared) xz += x * z[k];
        if (q.kind == Noise::independent) {
          const double w = static_cast<double>(static_cast<A>(q.noise_scale * normal(q.seed, i, at))) * mask[k];
          xz += x * w;
          nn += w * w;
          nm += w * mean[k];
        }
      }
      xx = warp_sum(xx);
      xm = warp_sum(xm);
      if (q.kind != Noise::none) xz = warp_sum(xz);
      if (q.kind == Noise::independent) {
        nn = warp_sum(nn);
        nm = warp_sum(nm);
      }
      if (lane == 0) {  // this row belongs to this warp, so nobody else writes here
        sums[kXX * q.b + i] += xx;
        sums[kXZ * q.b + i] += xz;
        sums[kXM * q.b + i] += xm;
        sums[kZZ * q.b + i] += nn;
        sums[kZM * q.b + i] += nm;
      }
    }
  }
  __syncthreads();
  if (layout.staged) {
    for (int64_t i = threadIdx.x; i < kRowSums * q.b; i += kThreads) out[i] = sums[i];
  }
  double all[kTotalSums] = {mm, zz, zm};  // in TotalSum's order
  for (int k = 0; k < kTotalSums; ++k) {
    const double value = warp_sum(all[k]);
    __syncthreads();
    if (lane == 0) partial[warp] = value;
    __syncthreads();
    if (threadIdx.x == 0) {
      double total = 0;
      for (int w = 0; w < kWarps; ++w) total += partial[w];
      totals[blockIdx.x * kTotalSums + k] = total;
    }
  }
}

__device__ double over_tasks(const double* values, int64_t stride, int64_t tasks) {
  double sum = 0;
  for (int64_t task = threadIdx.x % 32; task < tasks; task += 32) sum += values[task * stride];
  return warp_sum(sum);
}

// One warp per row.
template <typename A>
__global__ void finish_norms(const double* __restrict__ rows, int64_t tasks, int64_t b, double clip_norm,
                             A* __restrict__ norms, A* __restrict__ factors, int* __restrict__ usable,
                             int* __restrict__ any_unusable) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= b) return;
  const double square = over_tasks(rows + kXX * b + i, kRowSums * b, tasks);
  if (threadIdx.x % 32 != 0) return;
  norms[i] = static_cast<A>(sqrt(square));
  factors[i] = clip_factor(norms[i], clip_norm);
  usable[i] = isfinite(norms[i]);
  if (!usable[i]) *any_unusable = 1;
}

template <typename A>
__global__ void finish_cosines(const double* __restrict__ rows, const double* __restrict__ totals, int64_t tasks,
                               int64_t b, bool shared_noise, const A* __restrict__ factors,
                               const int* __restrict__ usable, A* __restrict__ cosine) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  if (i >= b) return;
  double row[kRowSums], total[kTotalSums];
  for (int k = 0; k < kRowSums; ++k) row[k] = over_tasks(rows + k * b + i, kRowSums * b, tasks);
  for (int k = 0; k < kTotalSums; ++k) total[k] = over_tasks(totals + k, kTotalSums, tasks);
  if (threadIdx.x % 32 != 0) return;
  const double factor = static_cast<double>(factors[i]);
  const double zz = shared_noise ? total[kTotalZZ] : row[kZZ], zm = shared_noise ? total[kTotalZM] : row[kZM];
  const double square = factor * factor * row[kXX] + 2 * factor * row[kXZ] + zz;
  const double lengths = sqrt(square > 0 ? square : 0.0) * sqrt(total[kMM]);
  const double value = lengths > 0 ? (factor * row[kXM] + zm) / lengths : 0.0;
  cosine[i] = usable[i] ? static_cast<A>(value < -1 ? -1.0 : value > 1 ? 1.0 : value) : static_cast<A>(NAN);
}

// One thread per column.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    measure_columns(Input<T, A> q, Measure measure, const A* __restrict__ factors, const int* __restrict__ usable,
                    float* __restrict__ out) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= q.f) return;
  const double z = q.kind == Noise::shared ? q.noise_scale * static_cast<double>(q.noise[j]) : 0.0;
  double first = 0, second = 0, shift = 0, n = 0;
#pragma unroll 4
  for (int64_t i = 0; i < q.b; ++i) {
    const bool there = usable[i];
    const A gradient = there ? static_cast<A>(q.data[i * q.stride_b + j * q.stride_f]) : A(0);
    if (!there) continue;
    double x = static_cast<double>(factors[i]) * static_cast<double>(gradient);
    if (q.kind == Noise::independent) x += static_cast<double>(static_cast<A>(q.noise_scale * normal(q.seed, i, j)));
    if (measure == Measure::magnitude) {
      first += fabs(x + z);
    } else {
      if (n == 0) shift = x;  // moments about the first row: equal rows have exactly no variance
      first += x - shift;
      second += (x - shift) * (x - shift);
    }
    n += 1;
  }
  double value = n > 0 ? first / n : 0.0;
  if (measure != Measure::magnitude && n > 0) {
    const double variance = (second - first * value) / n, mean = fabs(shift + value + z);
    value = sqrt(variance > 0 ? variance : 0.0);
    if (measure == Measure::variation) value /= mean + kMeanEpsilon;
  }
  out[j] = static_cast<float>(value);
}

// Radix selection of the rank-th smallest of non-negative floats: three rounds over 11, 10 and 10 of their bits.
struct Selection {
  uint32_t prefix;   // the bits found so far
  float value;       // the result, after the last round
  int64_t rank;      // among the values with this prefix
};

__device__ uint32_t device_bits(float value) { return __float_as_uint(value) & 0x7fffffffu; }

__global__ void start_selection(Selection* selection, int64_t rank) {
  selection->prefix = 0;
  selection->value = 0;
  selection->rank = rank;
}

__global__ void __launch_bounds__(kThreads)
    count_digits(const float* __restrict__ values, int64_t count, const Selection* __restrict__ selection, int shift,
                 int bits, unsigned long long* __restrict__ histogram) {
  __shared__ unsigned int local[kDigits];
  for (int i = threadIdx.x; i < kDigits; i += kThreads) local[i] = 0;
  __syncthreads();
  const uint32_t prefix = selection->prefix;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; j < count; j += step) {
    const uint32_t key = device_bits(values[j]);
    // shift + bits is 31 in the first round, whose prefix is empty.
    if ((key >> (shift + bits)) == prefix) atomicAdd(&local[(key >> shift) & ((1u << bits) - 1)], 1u);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kDigits; i += kThreads) {
    if (local[i] != 0) atomicAdd(&histogram[i], static_cast<unsigned long long>(local[i]));
  }
}

// One block. Leaves the histogram empty for the next round.
__global__ void __launch_bounds__(kThreads)
    pick_digit(unsigned long long* __restrict__ histogram, Selection* __restrict__ selection, int shift, int bits) {
  constexpr int kEach = kDigits / kThreads;
  __shared__ int64_t before[kThreads + 1];
  int64_t mine[kEach], total = 0;
  for (int k = 0; k < kEach; ++k) {
    mine[k] = static_cast<int64_t>(histogram[threadIdx.x * kEach + k]);
    histogram[threadIdx.x * kEach + k] = 0;
    total += mine[k];
  }
  before[threadIdx.x + 1] = total;
  const int64_t rank = selection->rank;
  const uint32_t prefix = selection->prefix;
  __syncthreads();
  if (threadIdx.x == 0) {
    before[0] = 0;
    for (int i = 1; i <= kThreads; ++i) before[i] += before[i - 1];
  }
  __syncthreads();
  int64_t below = before[threadIdx.x];
  for (int k = 0; k < kEach; ++k) {
    if (below < rank && rank <= below + mine[k]) {  // exactly one digit of one thread
      const uint32_t found = (prefix << bits) | static_cast<uint32_t>(threadIdx.x * kEach + k);
      selection->prefix = found;
      selection->rank = rank - below;
      if (shift == 0) selection->value = __uint_as_float(found);
    }
    below += mine[k];
  }
}

// One thread per column; rows in order, products exact in double for float32 input: as on CPU, bit for bit.
template <typename T, typename A>
__global__ void __launch_bounds__(kThreads)
    aggregate(Input<T, A> q, const A* __restrict__ weights, const double* __restrict__ coefficients, T* __restrict__ out) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= q.f) return;
  double sum = 0;
#pragma unroll 8
  for (int64_t i = 0; i < q.b; ++i) {
    const A weight = weights[i];
    const bool kept = weight != A(0);  // else the row is not read: it may hold NaN
    const A x = kept ? static_cast<A>(q.data[i * q.stride_b + j * q.stride_f]) : A(0);
    sum += static_cast<double>(weight) * static_cast<double>(x);
    if (q.kind == Noise::independent && kept) {
      sum += static_cast<double>(static_cast<A>(q.noise_scale * normal(q.seed, i, j)));
    }
  }
  const double z = q.kind == Noise::shared ? q.noise_scale * static_cast<double>(q.noise[j]) : 0.0;
  const double scale = coefficients[0];
  const double scaled = scale == 1.0 ? sum : scale * sum;
  out[j] = static_cast<T>(static_cast<A>((scaled + z) / coefficients[1]));
}

template <typename T, typename A>
Input<T, A> input_of(const Tensor& grads, Noise kind, const std::optional<Tensor>& noise, double noise_scale,
                     const std::optional<int64_t>& seed) {
  return {grads.const_data_ptr<T>(),
          grads.size(0),
          grads.size(1),
          grads.stride(0),
          grads.stride(1),
          kind,
          kind == Noise::shared ? noise->const_data_ptr<A>() : nullptr,
          noise_scale,
          static_cast<uint64_t>(seed.value_or(0))};
}

Tensor scratch(const Tensor& like, int64_t count, ScalarType dtype) {
  const int64_t shape[] = {count};
  return torch::stable::new_empty(like, {shape, 1}, dtype);
}

template <typename T>
void score(const Tensor& grads, Noise kind, const std::optional<Tensor>& noise, double noise_scale,
           const std::optional<int64_t>& seed, double clip_norm, Measure measure, int64_t unselected, Tensor& cosine,
           Tensor& norms) {
  using A = accumulate_t<T>;
  const int64_t b = grads.size(0), f = grads.size(1);
  if (b == 0) return;
  const cudaStream_t stream = cuda::stream(grads);
  const Layout layout = layout_of<A>(b, f);
  const bool masked = measure != Measure::none && unselected > 0;
  auto kernel = correlate<T, A>;
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(layout.shared)));

  Tensor rows = scratch(grads, layout.tasks * kRowSums * b, ScalarType::Double);
  Tensor totals = scratch(grads, layout.tasks * kTotalSums, ScalarType::Double);
  Tensor factors = scratch(grads, b, accumulate_dtype(grads));
  Tensor flags = scratch(grads, b + 1, ScalarType::Int);  // usable [b], then whether any is not
  double* row_data = rows.mutable_data_ptr<double>();
  double* total_data = totals.mutable_data_ptr<double>();
  A* factor_data = factors.mutable_data_ptr<A>();
  int* usable = flags.mutable_data_ptr<int>();
  int* any_unusable = usable + b;
  STD_CUDA_CHECK(cudaMemsetAsync(any_unusable, 0, sizeof(int), stream));

  const auto q = input_of<T, A>(grads, kind, noise, noise_scale, seed);
  const unsigned int blocks = cuda::grid(layout.tasks, "per_sample_grads");
  const unsigned int row_blocks = cuda::grid(cuda::ceil_div(b, kWarps), "per_sample_grads");
  auto first = q;
  if (masked) first.kind = Noise::none;  // only the norms are wanted yet
  kernel<<<blocks, kThreads, layout.shared, stream>>>(first, layout, nullptr, nullptr, nullptr, nullptr, row_data,
                                                      total_data);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  finish_norms<A><<<row_blocks, kThreads, 0, stream>>>(row_data, layout.tasks, b, clip_norm, norms.mutable_data_ptr<A>(),
                                                       factor_data, usable, any_unusable);
  STD_CUDA_KERNEL_LAUNCH_CHECK();

  if (masked) {
    Tensor measures = scratch(grads, f, ScalarType::Float);
    Tensor histogram = scratch(grads, kDigits, ScalarType::Long);
    Tensor state = scratch(grads, sizeof(Selection), ScalarType::Byte);
    float* measure_data = measures.mutable_data_ptr<float>();
    auto* counts = reinterpret_cast<unsigned long long*>(histogram.mutable_data_ptr<int64_t>());
    auto* selection = reinterpret_cast<Selection*>(state.mutable_data_ptr<uint8_t>());
    STD_CUDA_CHECK(cudaMemsetAsync(counts, 0, kDigits * sizeof(unsigned long long), stream));
    measure_columns<T, A><<<cuda::grid(cuda::ceil_div(f, kThreads), "per_sample_grads"), kThreads, 0, stream>>>(
        q, measure, factor_data, usable, measure_data);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    start_selection<<<1, 1, 0, stream>>>(selection, unselected);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    const int shifts[] = {20, 10, 0}, widths[] = {11, 10, 10};
    const unsigned int counting = cuda::grid(std::min<int64_t>(512, cuda::ceil_div(f, kThreads)), "per_sample_grads");
    for (int round = 0; round < 3; ++round) {
      count_digits<<<counting, kThreads, 0, stream>>>(measure_data, f, selection, shifts[round], widths[round], counts);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      pick_digit<<<1, kThreads, 0, stream>>>(counts, selection, shifts[round], widths[round]);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    kernel<<<blocks, kThreads, layout.shared, stream>>>(q, layout, nullptr, usable, measure_data, &selection->value,
                                                        row_data, total_data);
  } else {
    // A sample that is not finite has spoilt the batch gradient: once more without it. Else this returns at once.
    kernel<<<blocks, kThreads, layout.shared, stream>>>(q, layout, any_unusable, usable, nullptr, nullptr, row_data,
                                                        total_data);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  finish_cosines<A><<<row_blocks, kThreads, 0, stream>>>(row_data, total_data, layout.tasks, b, kind == Noise::shared,
                                                         factor_data, usable, cosine.mutable_data_ptr<A>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> cosine_filter_cuda(Tensor grads, std::optional<Tensor> noise, double noise_scale,
                                              std::optional<int64_t> seed, double clip_norm, std::string measure_name,
                                              int64_t unselected) {
  const Noise kind = check_noise(grads, noise, seed);
  const Measure measure = check_measure(grads, clip_norm, measure_name, unselected);
  const torch::stable::accelerator::DeviceGuard guard(grads.get_device_index());
  if (noise) noise = torch::stable::contiguous(*noise);
  Tensor cosine = scratch(grads, grads.size(0), accumulate_dtype(grads));
  Tensor norms = scratch(grads, grads.size(0), accumulate_dtype(grads));
  dispatch_floating(grads.scalar_type(), "per_sample_grads", [&](auto type) {
    using T = typename decltype(type)::type;
    score<T>(grads, kind, noise, noise_scale, seed, clip_norm, measure, unselected, cosine, norms);
  });
  return {cosine, norms};
}

Tensor cosine_filter_aggregate_cuda(Tensor grads, Tensor weights, Tensor coefficients, std::optional<Tensor> noise,
                                    double noise_scale, std::optional<int64_t> seed) {
  const Noise kind = check_noise(grads, noise, seed);
  check_aggregate(grads, weights, coefficients);
  const torch::stable::accelerator::DeviceGuard guard(grads.get_device_index());
  if (noise) noise = torch::stable::contiguous(*noise);
  weights = torch::stable::contiguous(weights);
  coefficients = torch::stable::contiguous(coefficients);
  const int64_t f = grads.size(1), shape[] = {f};
  Tensor out = torch::stable::new_empty(grads, {shape, 1});
  if (f == 0) return out;
  dispatch_floating(grads.scalar_type(), "per_sample_grads", [&](auto type) {
    using T = typename decltype(type)::type;
    using A = accumulate_t<T>;
    const auto q = input_of<T, A>(grads, kind, noise, noise_scale, seed);
    aggregate<T, A><<<cuda::grid(cuda::ceil_div(f, kThreads), "per_sample_grads"), kThreads, 0, cuda::stream(grads)>>>(
        q, weights.const_data_ptr<A>(), coefficients.const_data_ptr<double>(), out.mutable_data_ptr<T>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace
}  // namespace zoo::cosine_filter

STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m) {
  m.impl("cosine_filter", TORCH_BOX(&zoo::cosine_filter::cosine_filter_cuda));
  m.impl("cosine_filter_aggregate", TORCH_BOX(&zoo::cosine_filter::cosine_filter_aggregate_cuda));
}
