// The tree on CUDA: points in Morton order, leaves of 32 under a 32-ary tree of bounding boxes. One warp searches for
// one query; its lanes are the children of a node or the points of a leaf.
#pragma once

#include <cub/device/device_radix_sort.cuh>

#include <cfloat>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "common/cuda.h"
#include "common/tensor.h"
#include "nearest_neighbors/tree.h"

namespace zoo::nearest_neighbors::device {

constexpr int kFan = 32;    // points per leaf and children per node: the lanes of a warp
constexpr int kDepth = 7;   // 32^7 points are more than int32 can count
constexpr int kThreads = 128;
constexpr int kBoundsThreads = 1024;
constexpr unsigned kAll = 0xffffffffu;

template <typename A>
constexpr A kHuge = sizeof(A) == 4 ? static_cast<A>(FLT_MAX) : static_cast<A>(DBL_MAX);  // a limit that bars infinity

template <typename A>
constexpr ScalarType kType = sizeof(A) == 4 ? ScalarType::Float : ScalarType::Double;

template <typename A, int D>
struct Tree {
  int levels;
  int64_t padded;             // leaves * 32
  const A* x;                 // [D][padded], infinity past the end
  const int32_t* index;       // [padded], kNone past the end
  const A* box[kDepth];       // by level [nodes][2][D][32]: low and high of the children; infinity where there is none
  const int32_t* first[kDepth];  // by level [nodes][32]: the smallest index below
};

__device__ inline float warp_min(float x) {  // of numbers that are not negative: their order is that of their bits
  return __uint_as_float(__reduce_min_sync(kAll, __float_as_uint(x)));
}
__device__ inline double warp_min(double x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmin(x, __shfl_xor_sync(kAll, x, offset));
  return x;
}
template <typename A>
__device__ A warp_low(A x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmin(x, __shfl_xor_sync(kAll, x, offset));
  return x;
}
template <typename A>
__device__ A warp_high(A x) {
  for (int offset = 16; offset > 0; offset /= 2) x = fmax(x, __shfl_xor_sync(kAll, x, offset));
  return x;
}

// ---- Building --------------------------------------------------------------------------------------------------------

// Points of any strides and dtype as contiguous [n D] of A.
template <typename T, typename A, int D>
__global__ void widen(const T* points, int64_t n, int64_t stride_n, int64_t stride_d, A* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  for (int d = 0; d < D; ++d) out[i * D + d] = static_cast<A>(points[i * stride_n + d * stride_d]);
}

// The box of the finite points, low [D] then high [D], by one block. All zero when there is none.
template <typename A, int D>
__global__ void __launch_bounds__(kBoundsThreads) bounds(const A* points, int64_t n, A* box) {
  __shared__ A shared[2 * D][32];
  A low[D], high[D];
  for (int d = 0; d < D; ++d) {
    low[d] = kHuge<A>;
    high[d] = -kHuge<A>;
  }
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    for (int d = 0; d < D; ++d) {
      const A x = points[i * D + d];
      if (!isfinite(x)) continue;
      low[d] = fmin(low[d], x);
      high[d] = fmax(high[d], x);
    }
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int d = 0; d < D; ++d) {
    low[d] = warp_low(low[d]);
    high[d] = warp_high(high[d]);
    if (lane == 0) {
      shared[d][warp] = low[d];
      shared[D + d][warp] = high[d];
    }
  }
  __syncthreads();
  if (warp > 0) return;
  const int warps = blockDim.x / 32;
  for (int d = 0; d < D; ++d) {
    const A least = warp_low(lane < warps ? shared[d][lane] : kHuge<A>);
    const A most = warp_high(lane < warps ? shared[D + d][lane] : -kHuge<A>);
    if (lane == 0) {
      box[d] = least <= most ? least : A(0);
      box[D + d] = least <= most ? most : A(0);
    }
  }
}

// Bits of x with D - 1 zeros after each.
template <int D>
__device__ uint64_t spread(uint64_t x) {
  if (D == 2) {
    x = (x | x << 16) & 0x0000ffff0000ffffULL;
    x = (x | x << 8) & 0x00ff00ff00ff00ffULL;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0fULL;
    x = (x | x << 2) & 0x3333333333333333ULL;
    x = (x | x << 1) & 0x5555555555555555ULL;
  } else {
    x = (x | x << 32) & 0x001f00000000ffffULL;
    x = (x | x << 16) & 0x001f0000ff0000ffULL;
    x = (x | x << 8) & 0x100f00f00f00f00fULL;
    x = (x | x << 4) & 0x10c30c30c30c30c3ULL;
    x = (x | x << 2) & 0x1249249249249249ULL;
  }
  return x;
}

template <int D>
constexpr int kKeyBits = D == 2 ? 31 : 21;  // of each coordinate

template <typename A, int D>
__global__ void keys_of(const A* points, int64_t n, const A* box, uint64_t* keys, int32_t* values) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double extent = 0;
  for (int d = 0; d < D; ++d) extent = fmax(extent, static_cast<double>(box[D + d]) - static_cast<double>(box[d]));
  constexpr double top = static_cast<double>((1ULL << kKeyBits<D>)-1);
  const double scale = extent > 0 ? top / extent : 0;
  uint64_t key = 0;
  for (int d = 0; d < D; ++d) {
    const double offset = (static_cast<double>(points[i * D + d]) - static_cast<double>(box[d])) * scale;
    // fmax and fmin pass the number on when the other is NaN.
    key |= spread<D>(static_cast<uint64_t>(fmin(fmax(offset, 0.0), top))) << (D - 1 - d);
  }
  keys[i] = key;
  values[i] = static_cast<int32_t>(i);
}

// One warp per leaf (and per missing leaf of the last node): gathers its points and writes its box into its node.
template <typename A, int D>
__global__ void fill_leaves(const A* points, const int32_t* order, int64_t n, int64_t leaves, int64_t warps, A* x,
                            int32_t* index, A* box, int32_t* first) {
  const int64_t leaf = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kFan;
  const int lane = threadIdx.x % kFan;
  if (leaf >= warps) return;  // the whole warp
  const int64_t i = leaf * kFan + lane;
  const bool there = leaf < leaves && i < n;
  const int32_t own = there ? order[i] : kNone;
  if (leaf < leaves) index[i] = own;
  const int32_t smallest = __reduce_min_sync(kAll, own);
  A* children = box + leaf / kFan * (2 * D * kFan) + leaf % kFan;
  for (int d = 0; d < D; ++d) {
    const A value = there ? points[static_cast<int64_t>(own) * D + d] : static_cast<A>(INFINITY);
    if (leaf < leaves) x[d * leaves * kFan + i] = value;
    const A low = warp_low(value);
    const A high = warp_high(there ? value : static_cast<A>(-INFINITY));
    if (lane == 0) {
      children[d * kFan] = low;
      children[(D + d) * kFan] = high;
    }
  }
  if (lane == 0) first[leaf] = smallest;
}

// One warp per node of the level below (and per missing node): its box, written into its parent.
template <typename A, int D>
__global__ void fill_level(const A* below, const int32_t* below_first, int64_t nodes, int64_t warps, A* box,
                           int32_t* first) {
  const int64_t node = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kFan;
  const int lane = threadIdx.x % kFan;
  if (node >= warps) return;
  const bool there = node < nodes;
  A* children = box + node / kFan * (2 * D * kFan) + node % kFan;
  const A* from = below + node * (2 * D * kFan) + lane;
  const int32_t smallest = __reduce_min_sync(kAll, there ? below_first[node * kFan + lane] : kNone);
  for (int d = 0; d < D; ++d) {
    const A low = warp_low(there ? from[d * kFan] : static_cast<A>(INFINITY));
    const A high = warp_high(there ? from[(D + d) * kFan] : static_cast<A>(-INFINITY));
    if (lane == 0) {
      children[d * kFan] = low;
      children[(D + d) * kFan] = high;
    }
  }
  if (lane == 0) first[node] = smallest;
}

inline Tensor scratch(const Tensor& like, int64_t count, ScalarType dtype) {
  const int64_t shape[] = {count > 0 ? count : 1};
  return torch::stable::new_empty(like, {shape, 1}, dtype);
}

inline unsigned blocks_for(int64_t threads) { return cuda::grid(cuda::ceil_div(threads, kThreads), "a cloud"); }

// A cloud on the device, contiguous and in A.
template <typename T, int D>
Tensor to_cloud(const Tensor& points, cudaStream_t stream) {
  using A = accumulate_t<T>;
  const int64_t n = points.size(0);
  Tensor out = scratch(points, n * D, kType<A>);
  if (n > 0) {
    widen<T, A, D><<<blocks_for(n), kThreads, 0, stream>>>(points.const_data_ptr<T>(), n, points.stride(0),
                                                           points.stride(1), out.mutable_data_ptr<A>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return out;
}

// The box of a cloud [2 D] and its order along the Morton curve [n].
template <typename A, int D>
void sort_cloud(const Tensor& cloud, int64_t n, Tensor& box, Tensor& order, cudaStream_t stream) {
  box = scratch(cloud, 2 * D, kType<A>);
  order = scratch(cloud, n, ScalarType::Int);
  bounds<A, D><<<1, kBoundsThreads, 0, stream>>>(cloud.const_data_ptr<A>(), n, box.mutable_data_ptr<A>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (n == 0) return;
  Tensor keys = scratch(cloud, 2 * n, ScalarType::Long);
  Tensor values = scratch(cloud, n, ScalarType::Int);
  uint64_t* from = reinterpret_cast<uint64_t*>(keys.mutable_data_ptr<int64_t>());
  keys_of<A, D><<<blocks_for(n), kThreads, 0, stream>>>(cloud.const_data_ptr<A>(), n, box.const_data_ptr<A>(), from,
                                                        values.mutable_data_ptr<int32_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  size_t bytes = 0;
  STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, bytes, from, from + n, values.const_data_ptr<int32_t>(),
                                                 order.mutable_data_ptr<int32_t>(), n, 0, D * kKeyBits<D>, stream));
  Tensor work = scratch(cloud, static_cast<int64_t>(bytes), ScalarType::Byte);
  STD_CUDA_CHECK(cub::DeviceRadixSort::SortPairs(work.mutable_data_ptr<uint8_t>(), bytes, from, from + n,
                                                 values.const_data_ptr<int32_t>(), order.mutable_data_ptr<int32_t>(), n,
                                                 0, D * kKeyBits<D>, stream));
}

// A tree and the tensors that hold it: keep it alive while kernels that use it are being launched (memory that is
// freed afterwards is reused in stream order).
template <typename A, int D>
struct Storage {
  Tree<A, D> tree{};
  Tensor bounds, x, index, box, first;

  // cloud [n D], contiguous, n >= 1
  Storage(const Tensor& cloud, int64_t n, cudaStream_t stream)
      : bounds(cloud), x(cloud), index(cloud), box(cloud), first(cloud) {
    Tensor order = cloud;
    sort_cloud<A, D>(cloud, n, bounds, order, stream);
    const int64_t leaves = cuda::ceil_div(n, kFan);
    int64_t counts[kDepth], total = 0;
    for (int64_t below = leaves; tree.levels == 0 || below > 1; ++tree.levels) {
      below = cuda::ceil_div(below, kFan);
      counts[tree.levels] = below;
      total += below;
    }
    tree.padded = leaves * kFan;
    x = scratch(cloud, D * tree.padded, kType<A>);
    index = scratch(cloud, tree.padded, ScalarType::Int);
    box = scratch(cloud, total * 2 * D * kFan, kType<A>);
    first = scratch(cloud, total * kFan, ScalarType::Int);
    A* boxes = box.mutable_data_ptr<A>();
    int32_t* firsts = first.mutable_data_ptr<int32_t>();
    tree.x = x.const_data_ptr<A>();
    tree.index = index.const_data_ptr<int32_t>();
    fill_leaves<A, D><<<blocks_for(counts[0] * kFan * kFan), kThreads, 0, stream>>>(
        cloud.const_data_ptr<A>(), order.const_data_ptr<int32_t>(), n, leaves, counts[0] * kFan,
        x.mutable_data_ptr<A>(), index.mutable_data_ptr<int32_t>(), boxes, firsts);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
    for (int level = 0; level < tree.levels; ++level) {
      tree.box[level] = boxes;
      tree.first[level] = firsts;
      boxes += counts[level] * 2 * D * kFan;
      firsts += counts[level] * kFan;
      if (level + 1 == tree.levels) break;
      fill_level<A, D><<<blocks_for(counts[level + 1] * kFan * kFan), kThreads, 0, stream>>>(
          tree.box[level], tree.first[level], counts[level], counts[level + 1] * kFan, boxes, firsts);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
  }
};

// ---- Searching -------------------------------------------------------------------------------------------------------

// The nearest point within a limit and, if asked for, the distance of the next. All lanes of a warp hold the same.
template <typename A, bool kSecond>
struct Nearest {
  A distance, second;  // squared; at first the limit
  int32_t index = kNone;
  int64_t slot = -1;

  __device__ explicit Nearest(A limit) : distance(limit), second(limit) {}
  __device__ A limit() const { return kSecond ? second : distance; }
  __device__ bool admits(A d, int32_t i) const { return d < limit() || (d == distance && i < index); }

  // Every lane offers one point.
  __device__ void offer(A d, int32_t i, int64_t place) {
    const A least = warp_min(d);
    if (!(least <= limit())) return;
    const int32_t winner = __reduce_min_sync(kAll, d == least ? i : kNone);
    if (!admits(least, winner)) return;
    const A next = kSecond ? warp_min(i == winner ? static_cast<A>(INFINITY) : d) : A(0);
    if (least < distance || (least == distance && winner < index)) {
      if (kSecond) second = fmin(slot >= 0 ? distance : second, next);
      distance = least;
      index = winner;
      slot = __shfl_sync(kAll, place, __ffs(__ballot_sync(kAll, i == winner)) - 1);
    } else if (kSecond) {
      second = fmin(second, least);
    }
  }
};

// The k nearest, in ascending order, in global memory that only this warp touches.
template <typename A>
struct NearestK {
  A* distance;      // [k] squared
  int64_t* index;   // [k]
  int64_t k, found;
  A last;           // the limit
  int64_t last_index;

  __device__ NearestK(A* distances, int64_t* indices, int64_t count, A limit)
      : distance(distances), index(indices), k(count), found(0), last(limit), last_index(kNone) {}
  __device__ A limit() const { return last; }
  __device__ bool admits(A d, int64_t i) const { return d < last || (d == last && i < last_index); }

  __device__ void offer(A d, int32_t i, int64_t) {
    for (unsigned bits = __ballot_sync(kAll, admits(d, i)); bits; bits &= bits - 1) {
      const int from = __ffs(bits) - 1;
      insert(__shfl_sync(kAll, d, from), __shfl_sync(kAll, i, from));
    }
  }

  __device__ void insert(A d, int64_t i) {
    if (!admits(d, i)) return;
    // From the end, 32 at a time: entries after the new one move up by a place.
    const int lane = threadIdx.x % 32;
    const int64_t kept = found < k ? found : k - 1;
    int64_t place = kept;
    for (int64_t end = kept; end > 0; end -= 32) {
      const int64_t j = end - 1 - lane;
      const A other = j >= 0 ? distance[j] : A(0);
      const int64_t other_index = j >= 0 ? index[j] : -1;
      const bool after = j >= 0 && (d < other || (d == other && i < other_index));
      const unsigned moved = __ballot_sync(kAll, after);
      __syncwarp();  // all have read before any writes
      if (after) {
        distance[j + 1] = other;
        index[j + 1] = other_index;
      }
      __syncwarp();
      place -= __popc(moved);
      if (moved != kAll) break;
    }
    if (lane == 0) {
      distance[place] = d;
      index[place] = i;
    }
    __syncwarp();
    found = kept + 1;
    if (found == k) {
      last = distance[k - 1];
      last_index = index[k - 1];
    }
  }
};

// Depth first, nearest child first. Distances to boxes and to points are the same sums, and rounding is monotone: what
// is pruned can't have won. `frames` [kDepth][32] is shared memory of this warp; each lane touches its own column only.
template <typename A, int D, typename Best>
__device__ void search(const Tree<A, D>& tree, const A (&q)[D], Best& best, A (*frames)[kFan]) {
  for (int d = 0; d < D; ++d) {
    if (!isfinite(q[d])) return;
  }
  const int lane = threadIdx.x % kFan;
  int64_t nodes[kDepth];
  int level = tree.levels - 1;
  int64_t node = 0;
  bool enter = true;
  while (level < tree.levels) {
    if (enter) {
      nodes[level] = node;
      const A* box = tree.box[level] + node * (2 * D * kFan) + lane;
      A sum = 0;
      for (int d = 0; d < D; ++d) {
        const A gap = fmax(fmax(box[d * kFan] - q[d], q[d] - box[(D + d) * kFan]), A(0));
        sum = fma(gap, gap, sum);
      }
      frames[level][lane] = sum;
      enter = false;
    }
    const A distance = frames[level][lane];
    const A least = warp_min(distance);
    if (!(least <= best.limit())) {  // infinity never is: visited, or no child
      ++level;
      continue;
    }
    const int child = __ffs(__ballot_sync(kAll, distance == least)) - 1;
    if (lane == child) frames[level][lane] = static_cast<A>(INFINITY);
    if (!best.admits(least, tree.first[level][nodes[level] * kFan + child])) continue;
    node = nodes[level] * kFan + child;
    if (level > 0) {
      --level;
      enter = true;
      continue;
    }
    const int64_t place = node * kFan + lane;
    A sum = 0;
    for (int d = 0; d < D; ++d) {
      const A difference = tree.x[d * tree.padded + place] - q[d];
      sum = fma(difference, difference, sum);
    }
    best.offer(isfinite(sum) ? sum : static_cast<A>(INFINITY), tree.index[place], place);
  }
}

}  // namespace zoo::nearest_neighbors::device
