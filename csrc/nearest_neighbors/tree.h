// The spatial index: points in the order of a Hilbert curve, cut into leaves of 16, under a 16-ary tree of bounding
// boxes. Building it is one radix sort; testing a leaf or the boxes of a node is one sweep over 16 lanes.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>

#include "common/simd.h"

namespace zoo::nearest_neighbors {

constexpr int kWide = 16;   // points per leaf and children per node
constexpr int kLevels = 8;  // 16^8 points are more than int32 can count
constexpr int32_t kNone = std::numeric_limits<int32_t>::max();  // index of a padding lane
constexpr int64_t kMostPoints = kNone - kWide;

template <typename A, int D>
struct alignas(64) Leaf {
  A x[D][kWide];         // padded with infinity
  int32_t index[kWide];  // padded with kNone
};

// The boxes of 16 children: leaves on level 0, nodes of the level below elsewhere.
template <typename A, int D>
struct alignas(64) Node {
  A low[D][kWide], high[D][kWide];  // padded with an empty box at infinity
  int32_t first[kWide];             // the smallest index below: settles ties without a visit
};

template <typename A, int D>
struct Tree {
  int64_t size = 0;
  int levels = 0;
  int64_t leaf_count = 0;
  const Leaf<A, D>* leaves = nullptr;
  const Node<A, D>* nodes[kLevels] = {};  // by level; the last level has one node, the root

  std::unique_ptr<simd::Buffer<Leaf<A, D>>> leaf_storage;
  std::unique_ptr<simd::Buffer<Node<A, D>>> node_storage;
};

// points [n d], finite, n >= 1.
template <typename A, int D>
Tree<A, D> build(const A* points, int64_t n);

// The order of points [n d] along a Hilbert curve through their box.
template <typename A, int D>
void curve_order(const A* points, int64_t n, int32_t* order);

// The k nearest points of each query [n d] within the limit (a squared distance, inclusive), nearest first and of
// equals the lowest index first; distance [n k] infinity and index [n k] -1 where there are fewer.
template <typename A, int D>
void query(const Tree<A, D>& tree, const A* points, int64_t n, int64_t k, A limit, A* distance, int64_t* index);

// One task of `query`, for the SIMD kernels.
template <typename A, int D>
struct Query {
  const Tree<A, D>* tree;
  const A* points;
  const int32_t* order;  // of the queries, along the curve
  int64_t n, k;
  A limit;
  A* distance;
  int64_t* index;
};

// Coordinates to cells of the curve and on to positions along it, for the SIMD kernels.
template <typename A, int D>
struct Curve {
  const A* points;
  const int32_t* order;
  A low[D];
  A scale;
  uint64_t* items;  // position << 32 | index
};

template <int D>
constexpr int kBits = D == 2 ? 15 : 10;  // of each coordinate: a position has 30

}  // namespace zoo::nearest_neighbors
