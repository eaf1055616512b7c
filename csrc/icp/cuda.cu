// icp on CUDA. An iteration is two kernels (four when trimming): match the source with the tree and sum up the pairs
// block by block; then one block adds the sums, looks at the stopping rule and solves for the next motion. The state
// stays on the device, and kernels launched beyond the end return at once, so the host looks only now and then.
#include <torch/csrc/stable/library.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "common/cuda.h"
#include "common/tensor.h"
#include "icp/check.h"
#include "icp/solve.h"
#include "nearest_neighbors/tree.cuh"

namespace zoo::icp {
namespace {

namespace device = nearest_neighbors::device;

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kUpdateThreads = 256;
constexpr int kTrimThreads = 1024;
constexpr int64_t kLookEvery = 4;  // iterations between the host's looks at the flag

template <int D>
struct State {
  Motion<D> motion;
  double source_center[D], target_center[D];
  double radius;  // half the target's extent
  double rmse, fitness;
  double trimmed;  // squared distance up to which pairs are kept
  int64_t iterations;
  int measured, converged, done;
};

struct Options {
  int64_t max_iterations;
  double tolerance, trim;
};

template <typename A, int D>
struct Problem {
  device::Tree<A, D> target;
  const A* normals;  // [m D] or null
  int64_t n;
  A reach, radius;   // max_distance, and that of the search: an outlier that hardly moves needs no search either
  const A* x;        // [D][n] the source, in Morton order
  A* anchor;         // [D][n] where the point was at its last search
  A* near;           // [D][n] the nearest neighbour found then
  A* second;         // [n] distance from the anchor up to which there is no point but that neighbour
  A* distance;       // [n] squared, of the current pair
  int32_t* index;    // [n] of the neighbour in the target
  int64_t blocks;
  double* sums;      // [kSums][blocks]
  State<D>* state;
};

template <typename A, int D>
__global__ void start(const double* r, const double* t, const A* source_box, const A* target_box, A limit,
                      State<D>* state) {
  State<D> s{};
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) s.motion.r[i][j] = r[i * D + j];
    s.motion.t[i] = t[i];
    s.source_center[i] = 0.5 * (static_cast<double>(source_box[i]) + static_cast<double>(source_box[D + i]));
    s.target_center[i] = 0.5 * (static_cast<double>(target_box[i]) + static_cast<double>(target_box[D + i]));
    s.radius = fmax(s.radius, 0.5 * (static_cast<double>(target_box[D + i]) - static_cast<double>(target_box[i])));
  }
  if (!(s.radius > 0)) s.radius = 1;
  s.trimmed = static_cast<double>(limit);
  *state = s;
}

template <typename A, int D>
__global__ void gather(const A* points, const int32_t* order, int64_t n, A* x) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const int64_t from = order[i];
  for (int d = 0; d < D; ++d) x[d * n + i] = points[from * D + d];
}

// The sums of one pair; zero where there is none.
template <typename A, int D, bool kPlane>
__device__ void sums_of(const Problem<A, D>& p, const State<D>& state, int64_t i, bool paired,
                        double (&sums)[kSums<D, kPlane>]) {
  for (double& sum : sums) sum = 0;
  if (!paired) return;
  sums[0] = 1;
  sums[1] = static_cast<double>(p.distance[i]);
  if constexpr (!kPlane) {
    double x[D], y[D];
    for (int d = 0; d < D; ++d) {
      x[d] = sums[2 + d] = static_cast<double>(p.x[d * p.n + i]) - state.source_center[d];
      y[d] = sums[2 + D + d] = static_cast<double>(p.near[d * p.n + i]) - state.target_center[d];
    }
    for (int a = 0; a < D; ++a) {
      for (int b = 0; b < D; ++b) sums[2 + 2 * D + a * D + b] = x[a] * y[b];
    }
  } else {
    constexpr int P = kUnknowns<D>;
    double moved[D], normal[D], row[P], residual = 0;
    for (int a = 0; a < D; ++a) {
      moved[a] = state.motion.t[a] - state.target_center[a];
      for (int d = 0; d < D; ++d) moved[a] += state.motion.r[a][d] * static_cast<double>(p.x[d * p.n + i]);
      normal[a] = static_cast<double>(p.normals[static_cast<int64_t>(p.index[i]) * D + a]);
      residual += normal[a] * (moved[a] - (static_cast<double>(p.near[a * p.n + i]) - state.target_center[a]));
    }
    if constexpr (D == 2) {
      row[0] = moved[0] * normal[1] - moved[1] * normal[0];
    } else {
      row[0] = moved[1] * normal[2] - moved[2] * normal[1];
      row[1] = moved[2] * normal[0] - moved[0] * normal[2];
      row[2] = moved[0] * normal[1] - moved[1] * normal[0];
    }
    for (int a = 0; a < D; ++a) row[P - D + a] = normal[a];
    int to = 2;
    for (int a = 0; a < P; ++a) {
      for (int b = a; b < P; ++b) sums[to++] = row[a] * row[b];
    }
    for (int a = 0; a < P; ++a) sums[to++] = row[a] * residual;
  }
}

__device__ inline double warp_sum(double value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(device::kAll, value, offset);
  return value;
}

// This block's sums, added in a fixed order. Every thread of the block calls it.
template <typename A, int D, bool kPlane>
__device__ void add_block(const Problem<A, D>& p, const State<D>& state, int64_t i, bool paired) {
  __shared__ double shared[kSums<D, kPlane>][kWarps];
  double sums[kSums<D, kPlane>];
  sums_of<A, D, kPlane>(p, state, i, paired, sums);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int k = 0; k < kSums<D, kPlane>; ++k) {
    const double sum = warp_sum(sums[k]);
    if (lane == 0) shared[k][warp] = sum;
  }
  __syncthreads();
  if (threadIdx.x < kSums<D, kPlane>) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += shared[threadIdx.x][w];
    p.sums[threadIdx.x * p.blocks + blockIdx.x] = sum;
  }
}

// A thread per source point: moves it and, when its neighbour is sure to be the same (see kernel.inl), keeps it. The
// others queue, and the warps of the block search for one of them at a time.
template <typename A, int D, bool kPlane, bool kAdd>
__global__ void __launch_bounds__(kThreads) match(const Problem<A, D> p, bool first) {
  if (p.state->done) return;
  __shared__ State<D> state;
  __shared__ A frames[kWarps][device::kDepth][device::kFan];
  __shared__ A moved[D][kThreads];
  __shared__ A limits[kThreads];
  __shared__ int queue[kThreads];
  __shared__ int queued;
  if (threadIdx.x == 0) {
    state = *p.state;
    queued = 0;
  }
  __syncthreads();

  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kThreads;
  const int64_t i = begin + threadIdx.x;
  const A most = p.radius * p.radius < device::kHuge<A> ? p.radius * p.radius : device::kHuge<A>;
  if (i < p.n) {
    A y[D];
    for (int a = 0; a < D; ++a) {
      double sum = state.motion.t[a];
      for (int d = 0; d < D; ++d) sum += state.motion.r[a][d] * static_cast<double>(p.x[d * p.n + i]);
      y[a] = moved[a][threadIdx.x] = static_cast<A>(sum);
    }
    bool stale = first;
    A limit = most;
    if (!first) {
      constexpr A epsilon = sizeof(A) == 4 ? static_cast<A>(FLT_EPSILON) : static_cast<A>(DBL_EPSILON);
      A way = 0, pair = 0;
      for (int d = 0; d < D; ++d) {
        const A step = y[d] - p.anchor[d * p.n + i], gap = y[d] - p.near[d * p.n + i];
        way += step * step;
        pair += gap * gap;
      }
      way = sqrt(way);
      const A distance = sqrt(pair), second = p.second[i];
      stale = !((distance < p.reach ? distance : p.reach) + way < second * (A(1) - 64 * epsilon));
      if (!stale) p.distance[i] = pair;
      const A bound = (second + way) * (A(1) + 16 * epsilon);
      limit = bound * bound < most ? bound * bound : most;
    }
    if (stale) {
      limits[threadIdx.x] = limit;
      queue[atomicAdd(&queued, 1)] = threadIdx.x;
    }
  }
  __syncthreads();

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int j = warp; j < queued; j += kWarps) {
    const int from = queue[j];
    A q[D];
    for (int d = 0; d < D; ++d) q[d] = moved[d][from];
    device::Nearest<A, true> best(limits[from]);
    device::search(p.target, q, best, frames[warp]);
    if (lane > 0) continue;
    const int64_t to = begin + from;
    const bool found = best.slot >= 0;
    p.distance[to] = found ? best.distance : static_cast<A>(INFINITY);
    p.second[to] = sqrt(best.second);
    p.index[to] = found ? best.index : -1;
    for (int d = 0; d < D; ++d) {
      p.anchor[d * p.n + to] = q[d];
      p.near[d * p.n + to] = found ? p.target.x[d * p.target.padded + best.slot] : static_cast<A>(INFINITY);
    }
  }
  if (!kAdd) return;
  __syncthreads();  // and with it what the other warps wrote to global memory
  const A limit = static_cast<A>(state.trimmed);
  add_block<A, D, kPlane>(p, state, i, i < p.n && p.distance[i] <= limit);
}

template <typename A>
struct Bits {
  using type = std::conditional_t<sizeof(A) == 4, uint32_t, uint64_t>;
};

// The squared distance up to which pairs are kept: the kept-th smallest, digit by digit, by one block.
template <typename A, int D>
__global__ void __launch_bounds__(kTrimThreads) trim_pairs(const Problem<A, D> p, A limit, double trim) {
  using B = typename Bits<A>::type;
  if (p.state->done) return;
  __shared__ unsigned int histogram[256];
  __shared__ unsigned long long count;
  __shared__ long long rank;
  __shared__ B prefix;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  unsigned long long own = 0;
  for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) own += p.distance[i] <= limit;
  atomicAdd(&count, own);
  __syncthreads();
  if (threadIdx.x == 0) {
    rank = static_cast<long long>(count) - static_cast<long long>(trim * static_cast<double>(count));
    prefix = 0;
  }
  __syncthreads();
  const bool all = rank <= 0 || rank == static_cast<long long>(count);  // the same for every thread, before rank moves
  __syncthreads();
  if (all) {
    if (threadIdx.x == 0) p.state->trimmed = static_cast<double>(limit);
    return;
  }
  B mask = 0;
  for (int shift = 8 * static_cast<int>(sizeof(A)) - 8; shift >= 0; shift -= 8) {
    for (int j = threadIdx.x; j < 256; j += blockDim.x) histogram[j] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
      const A distance = p.distance[i];
      B bits;
      memcpy(&bits, &distance, sizeof(B));  // not negative: the order of the numbers is that of their bits
      if (distance <= limit && (bits & mask) == prefix) atomicAdd(&histogram[(bits >> shift) & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = 0;
      for (; digit < 255 && static_cast<long long>(histogram[digit]) < rank; ++digit) rank -= histogram[digit];
      prefix |= static_cast<B>(digit) << shift;
    }
    mask |= static_cast<B>(255) << shift;
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    A kept;
    const B bits = prefix;
    memcpy(&kept, &bits, sizeof(A));
    p.state->trimmed = static_cast<double>(kept);
  }
}

template <typename A, int D, bool kPlane>
__global__ void __launch_bounds__(kThreads) add_pairs(const Problem<A, D> p) {
  if (p.state->done) return;
  __shared__ State<D> state;
  if (threadIdx.x == 0) state = *p.state;
  __syncthreads();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  add_block<A, D, kPlane>(p, state, i, i < p.n && p.distance[i] <= static_cast<A>(state.trimmed));
}

// Adds the blocks' sums, a warp per sum; then one thread judges the motion and solves for the next.
template <typename A, int D, bool kPlane>
__global__ void __launch_bounds__(kUpdateThreads) update(const Problem<A, D> p, Options options) {
  if (p.state->done) return;
  __shared__ double total[kSums<D, kPlane>];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int k = warp; k < kSums<D, kPlane>; k += blockDim.x / 32) {
    double sum = 0;
    for (int64_t b = lane; b < p.blocks; b += 32) sum += p.sums[k * p.blocks + b];
    sum = warp_sum(sum);
    if (lane == 0) total[k] = sum;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;

  State<D>& s = *p.state;
  const double pairs = total[0], rmse = sqrt(total[1] / pairs), fitness = pairs / static_cast<double>(p.n);
  s.converged = s.measured && pairs > 0 && fabs(rmse - s.rmse) < options.tolerance &&
                fabs(fitness - s.fitness) < options.tolerance;
  s.measured = 1;
  s.rmse = rmse;  // no pairs: NaN
  s.fitness = fitness;
  if (!(pairs > 0) || s.converged || s.iterations >= options.max_iterations) {
    s.done = 1;
    return;
  }
  Motion<D> motion = s.motion;
  if constexpr (kPlane) {  // a step from the moved points, about the target's middle
    const double origin[D] = {};
    center(motion, origin, s.target_center);
    solve_planes(total, s.radius, motion);
    uncenter(motion, origin, s.target_center);
  } else {
    center(motion, s.source_center, s.target_center);
    solve_points(total, motion);
    uncenter(motion, s.source_center, s.target_center);
  }
  s.motion = motion;
  ++s.iterations;
}

template <typename A, int D>
__global__ void finish(const State<D>* state, A* r, A* t, double* rmse, double* fitness, int64_t* iterations,
                       bool* converged) {
  for (int i = 0; i < D; ++i) {
    for (int j = 0; j < D; ++j) r[i * D + j] = static_cast<A>(state->motion.r[i][j]);
    t[i] = static_cast<A>(state->motion.t[i]);
  }
  *rmse = state->rmse;
  *fitness = state->fitness;
  *iterations = state->iterations;
  *converged = state->converged != 0;
}

template <typename A, int D, bool kPlane>
void iterate(const Problem<A, D>& p, const Options& options, A limit, cudaStream_t stream) {
  const unsigned blocks = cuda::grid(p.blocks, "source");
  cudaStreamCaptureStatus capture;
  STD_CUDA_CHECK(cudaStreamIsCapturing(stream, &capture));
  for (int64_t i = 0; i <= options.max_iterations; ++i) {
    if (options.trim > 0) {
      match<A, D, kPlane, false><<<blocks, kThreads, 0, stream>>>(p, i == 0);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      trim_pairs<A, D><<<1, kTrimThreads, 0, stream>>>(p, limit, options.trim);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
      add_pairs<A, D, kPlane><<<blocks, kThreads, 0, stream>>>(p);
    } else {
      match<A, D, kPlane, true><<<blocks, kThreads, 0, stream>>>(p, i == 0);
    }
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    update<A, D, kPlane><<<1, kUpdateThreads, 0, stream>>>(p, options);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    if (i % kLookEvery == kLookEvery - 1 && i < options.max_iterations && capture == cudaStreamCaptureStatusNone) {
      int done = 0;
      STD_CUDA_CHECK(cudaMemcpyAsync(&done, &p.state->done, sizeof(done), cudaMemcpyDeviceToHost, stream));
      STD_CUDA_CHECK(cudaStreamSynchronize(stream));
      if (done) return;
    }
  }
}

template <typename T, int D>
void forward(const Tensor& source, const Tensor& target, const std::optional<Tensor>& normals, const Tensor& init_r,
             const Tensor& init_t, double max_distance, const Options& options, Registered& out, cudaStream_t stream) {
  using A = accumulate_t<T>;
  const int64_t n = source.size(0), m = target.size(0);
  const Tensor to = device::to_cloud<T, D>(target, stream);
  const device::Storage<A, D> storage(to, m, stream);
  const Tensor from = device::to_cloud<T, D>(source, stream);
  Tensor planes = to;
  if (normals) planes = device::to_cloud<T, D>(*normals, stream);
  Tensor box = from, order = from;
  device::sort_cloud<A, D>(from, n, box, order, stream);

  const Tensor r = torch::stable::contiguous(init_r), t = torch::stable::contiguous(init_t);
  const int64_t blocks = cuda::ceil_div(n, kThreads);
  const int64_t sum_count = normals ? kSums<D, true> : kSums<D, false>;
  Tensor points = device::scratch(from, 3 * D * n, device::kType<A>);
  Tensor numbers = device::scratch(from, 2 * n, device::kType<A>);
  Tensor index = device::scratch(from, n, ScalarType::Int);
  Tensor sums = device::scratch(from, blocks * sum_count, ScalarType::Double);
  Tensor state_bytes = device::scratch(from, sizeof(State<D>), ScalarType::Byte);
  A* at = points.mutable_data_ptr<A>();
  A* numbers_at = numbers.mutable_data_ptr<A>();
  State<D>* state = reinterpret_cast<State<D>*>(state_bytes.mutable_data_ptr<uint8_t>());

  const A reach = static_cast<A>(max_distance);
  const A limit = reach * reach < device::kHuge<A> ? reach * reach : device::kHuge<A>;
  start<A, D><<<1, 1, 0, stream>>>(r.const_data_ptr<double>(), t.const_data_ptr<double>(), box.const_data_ptr<A>(),
                                   storage.bounds.template const_data_ptr<A>(), limit, state);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  gather<A, D><<<cuda::grid(blocks, "source"), kThreads, 0, stream>>>(from.const_data_ptr<A>(),
                                                                      order.const_data_ptr<int32_t>(), n, at);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const Problem<A, D> p{storage.tree,
                        normals ? planes.const_data_ptr<A>() : nullptr,
                        n,
                        reach,
                        reach * A(1.25),
                        at,
                        at + D * n,
                        at + 2 * D * n,
                        numbers_at,
                        numbers_at + n,
                        index.mutable_data_ptr<int32_t>(),
                        blocks,
                        sums.mutable_data_ptr<double>(),
                        state};
  if (normals) {
    iterate<A, D, true>(p, options, limit, stream);
  } else {
    iterate<A, D, false>(p, options, limit, stream);
  }
  finish<A, D><<<1, 1, 0, stream>>>(
      state, std::get<0>(out).mutable_data_ptr<A>(), std::get<1>(out).mutable_data_ptr<A>(),
      std::get<2>(out).mutable_data_ptr<double>(), std::get<3>(out).mutable_data_ptr<double>(),
      std::get<4>(out).mutable_data_ptr<int64_t>(), std::get<5>(out).mutable_data_ptr<bool>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

Registered icp_cuda(Tensor source, Tensor target, std::optional<Tensor> normals, Tensor init_r, Tensor init_t,
                    double max_distance, int64_t max_iterations, double tolerance, double trim) {
  check(source, target, normals, init_r, init_t, max_distance, max_iterations, tolerance, trim);
  const torch::stable::accelerator::DeviceGuard guard(source.get_device_index());
  const cudaStream_t stream = cuda::stream(source);
  Registered out = make_outputs(source);
  const Options options{max_iterations, tolerance, trim};
  dispatch_floating(source.scalar_type(), "source", [&](auto type) {
    using T = typename decltype(type)::type;
    if (source.size(1) == 2) {
      forward<T, 2>(source, target, normals, init_r, init_t, max_distance, options, out, stream);
    } else {
      forward<T, 3>(source, target, normals, init_r, init_t, max_distance, options, out, stream);
    }
  });
  return out;
}

}  // namespace
}  // namespace zoo::icp

STABLE_TORCH_LIBRARY_IMPL(zoo, CUDA, m) { m.impl("icp", TORCH_BOX(&zoo::icp::icp_cuda)); }
