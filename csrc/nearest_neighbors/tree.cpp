// Builds the tree and runs queries on it in parallel.
#include "nearest_neighbors/tree.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#define ZOO_SIMD_KERNEL "nearest_neighbors/curve.inl"
#include "common/for_each_simd_level.h"

#include "nearest_neighbors/lanes.h"
#define ZOO_SIMD_KERNEL "nearest_neighbors/search.inl"
#include "common/for_each_simd_level.h"

namespace zoo::nearest_neighbors {
namespace {

constexpr int64_t kGrain = 4096;  // points per task of the cheap passes
constexpr int64_t kChunk = 256;   // queries per task: a multiple of 16

template <typename A, int D>
void positions_of(const Curve<A, D>& curve, int64_t first, int64_t last) {
  ZOO_SIMD_CALL(positions, curve, first, last);
}

template <typename A, int D>
void run(const Query<A, D>& task, int64_t first, int64_t last) {
  ZOO_SIMD_CALL(query_chunk, task, first, last);
}

// Sorts by the 30 bits above the lower half, stably: three passes of 10. The result lies in `spare`.
void radix_sort(uint64_t* items, uint64_t* spare, int64_t n) {
  constexpr int kDigits = 1024;
  std::vector<uint32_t> counts(3 * kDigits, 0);
  for (int64_t i = 0; i < n; ++i) {
    for (int pass = 0; pass < 3; ++pass) ++counts[pass * kDigits + (items[i] >> (32 + 10 * pass)) % kDigits];
  }
  for (int pass = 0; pass < 3; ++pass) {
    uint32_t* count = counts.data() + pass * kDigits;
    uint32_t sum = 0;
    for (int j = 0; j < kDigits; ++j) sum += std::exchange(count[j], sum);
    for (int64_t i = 0; i < n; ++i) spare[count[(items[i] >> (32 + 10 * pass)) % kDigits]++] = items[i];
    std::swap(items, spare);
  }
}

// order[first..last) along the curve through its own box. A cell of the curve that holds more than two leaves (a dense
// cluster beside a far outlier) is sorted again along a finer curve; duplicates stay in the order of their indices.
template <typename A, int D>
void sort_range(const A* points, int32_t* order, int64_t first, int64_t last, uint64_t* items, uint64_t* spare) {
  const int64_t n = last - first;
  A low[D], high[D];
  for (int d = 0; d < D; ++d) low[d] = high[d] = points[static_cast<int64_t>(order[first]) * D + d];
  for (int64_t i = first; i < last; ++i) {
    const A* x = points + static_cast<int64_t>(order[i]) * D;
    for (int d = 0; d < D; ++d) {
      low[d] = std::min(low[d], x[d]);
      high[d] = std::max(high[d], x[d]);
    }
  }
  A extent = 0;
  for (int d = 0; d < D; ++d) extent = std::max(extent, high[d] - low[d]);
  const A scale = static_cast<A>(1 << kBits<D>) / extent;
  if (!(extent > 0) || !std::isfinite(scale)) return;  // one place, up to a subnormal extent

  Curve<A, D> curve{points, order + first, {}, scale, items};
  std::copy(low, low + D, curve.low);
  if (n > 2 * kGrain) {
    torch::stable::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) { positions_of(curve, begin, end); });
  } else {
    positions_of(curve, 0, n);
  }
  radix_sort(items, spare, n);
  std::vector<std::pair<int64_t, int64_t>> crowded;
  for (int64_t i = 0; i < n; ++i) order[first + i] = static_cast<int32_t>(spare[i] & 0xffffffffu);
  for (int64_t begin = 0; begin + 2 * kWide < n;) {
    if (spare[begin] >> 32 != spare[begin + 2 * kWide] >> 32) {
      ++begin;
      continue;
    }
    int64_t end = begin + 2 * kWide;
    while (end < n && spare[end] >> 32 == spare[begin] >> 32) ++end;
    crowded.emplace_back(first + begin, first + end);
    begin = end;
  }
  for (const auto& [begin, end] : crowded) sort_range<A, D>(points, order, begin, end, items, spare);
}

template <typename A, int D>
void clear(Node<A, D>& node) {
  std::fill(&node.low[0][0], &node.low[0][0] + D * kWide, std::numeric_limits<A>::infinity());
  std::fill(&node.high[0][0], &node.high[0][0] + D * kWide, -std::numeric_limits<A>::infinity());
  std::fill(node.first, node.first + kWide, kNone);
}

}  // namespace

template <typename A, int D>
void curve_order(const A* points, int64_t n, int32_t* order) {
  for (int64_t i = 0; i < n; ++i) order[i] = static_cast<int32_t>(i);
  simd::Buffer<uint64_t> items(n), spare(n);
  if (n > 1) sort_range<A, D>(points, order, 0, n, items.data(), spare.data());
}

template <typename A, int D>
Tree<A, D> build(const A* points, int64_t n) {
  Tree<A, D> tree;
  tree.size = n;
  tree.leaf_count = (n + kWide - 1) / kWide;
  int64_t counts[kLevels], total = 0;
  for (int64_t below = tree.leaf_count; tree.levels == 0 || below > 1; ++tree.levels) {
    below = (below + kWide - 1) / kWide;
    counts[tree.levels] = below;
    total += below;
  }
  tree.leaf_storage = std::make_unique<simd::Buffer<Leaf<A, D>>>(tree.leaf_count);
  tree.node_storage = std::make_unique<simd::Buffer<Node<A, D>>>(total);
  Leaf<A, D>* leaves = tree.leaf_storage->data();
  Node<A, D>* nodes[kLevels];
  nodes[0] = tree.node_storage->data();
  for (int level = 1; level < tree.levels; ++level) nodes[level] = nodes[level - 1] + counts[level - 1];
  tree.leaves = leaves;
  std::copy(nodes, nodes + tree.levels, tree.nodes);

  simd::Buffer<int32_t> order(n);
  curve_order<A, D>(points, n, order.data());
  torch::stable::parallel_for(0, counts[0], kGrain / (kWide * kWide), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Node<A, D>& node = nodes[0][i];
      clear(node);
      for (int c = 0; c < kWide && i * kWide + c < tree.leaf_count; ++c) {
        Leaf<A, D>& leaf = leaves[i * kWide + c];
        const int64_t first = (i * kWide + c) * kWide;
        for (int j = 0; j < kWide; ++j) {
          const bool there = first + j < n;
          leaf.index[j] = there ? order[first + j] : kNone;
          node.first[c] = std::min(node.first[c], leaf.index[j]);
          for (int d = 0; d < D; ++d) {
            const int64_t place = static_cast<int64_t>(leaf.index[j]) * D + d;
            const A x = there ? points[place] : std::numeric_limits<A>::infinity();
            leaf.x[d][j] = x;
            if (!there) continue;
            node.low[d][c] = std::min(node.low[d][c], x);
            node.high[d][c] = std::max(node.high[d][c], x);
          }
        }
      }
    }
  });
  for (int level = 1; level < tree.levels; ++level) {
    for (int64_t i = 0; i < counts[level]; ++i) {
      Node<A, D>& node = nodes[level][i];
      clear(node);
      for (int c = 0; c < kWide && i * kWide + c < counts[level - 1]; ++c) {
        const Node<A, D>& child = nodes[level - 1][i * kWide + c];
        node.first[c] = *std::min_element(child.first, child.first + kWide);
        for (int d = 0; d < D; ++d) {
          node.low[d][c] = *std::min_element(child.low[d], child.low[d] + kWide);
          node.high[d][c] = *std::max_element(child.high[d], child.high[d] + kWide);
        }
      }
    }
  }
  return tree;
}

template <typename A, int D>
void query(const Tree<A, D>& tree, const A* points, int64_t n, int64_t k, A limit, A* distance, int64_t* index) {
  if (n == 0 || k == 0) return;
  simd::Buffer<int32_t> order(n);
  curve_order<A, D>(points, n, order.data());
  const Query<A, D> task{&tree, points, order.data(), n, k, limit, distance, index};
  const int64_t chunks = (n + kChunk - 1) / kChunk;
  torch::stable::parallel_for(0, chunks, 1, [&](int64_t first, int64_t last) {
    run(task, first * kChunk, std::min(n, last * kChunk));
  });
}

#define ZOO_INSTANTIATE(A, D)                                                                        \
  template void curve_order<A, D>(const A*, int64_t, int32_t*);                                      \
  template Tree<A, D> build<A, D>(const A*, int64_t);                                                \
  template void query<A, D>(const Tree<A, D>&, const A*, int64_t, int64_t, A, A*, int64_t*);
ZOO_INSTANTIATE(float, 2)
ZOO_INSTANTIATE(float, 3)
ZOO_INSTANTIATE(double, 2)
ZOO_INSTANTIATE(double, 3)
#undef ZOO_INSTANTIATE

}  // namespace zoo::nearest_neighbors
